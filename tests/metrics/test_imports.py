import subprocess
import sys


def test_metrics_import_neither_lightning_nor_diffusers():
    code = (
        "import sys, cmd_lightning.metrics as m\n"
        "for name in m.__all__: getattr(m, name)\n"
        "roots = {name.partition('.')[0] for name in sys.modules}\n"
        "print(sorted(roots & {'lightning', 'pytorch_lightning', 'diffusers'}))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
