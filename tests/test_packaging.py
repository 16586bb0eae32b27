"""The installed package: one import name, with the zoo and the configs inside."""

import os
import shutil
import statistics
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from missing import missing

import cmd_lightning

ROOT = Path(cmd_lightning.__path__[0]).parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from a copy, since setuptools leaves its working folders next to the sources."""
    if not (ROOT / "setup.cfg").is_file():
        missing("only a checkout has what a wheel is built from")
    folder = tmp_path_factory.mktemp("wheel")
    for name in ("cmd_lightning", "zoo", "data", "configs"):
        shutil.copytree(
            ROOT / name, folder / "source" / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__")
        )
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / "source" / name)
    command = [
        sys.executable,
        "-m",
        "build",
        "--wheel",
        "--no-isolation",
        "--outdir",
        str(folder),
        str(folder / "source"),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    [file] = folder.glob("*.whl")
    return file


def files_of(folder, suffixes):
    return {
        f"cmd_lightning/{folder}/{file.relative_to(ROOT / folder)}"
        for file in (ROOT / folder).rglob("*")
        if file.suffix in suffixes and "__pycache__" not in file.parts
    }


def test_wheel_has_one_import_name(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    top = {name.split("/")[0] for name in names}
    assert {name for name in top if not name.endswith(".dist-info")} == {"cmd_lightning"}


def test_wheel_has_the_zoo_the_data_and_the_configs(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert len(names) == len(set(names))
    expected = (
        files_of("zoo", {".py", ".yaml", ".json", ".safetensors"})
        | files_of("data", {".py"})
        | files_of("configs", {".yaml"})
    )
    assert "cmd_lightning/zoo/motion/dit.py" in expected
    assert "cmd_lightning/configs/shapes32/motion.yaml" in expected
    own = {
        str(file.relative_to(ROOT))
        for file in (*(ROOT / "cmd_lightning").rglob("*.py"), *(ROOT / "cmd_lightning/templates").iterdir())
        if "__pycache__" not in file.parts
    }
    assert (expected | own) - set(names) == set()
    assert not [name for name in names if "tests" in name or name.endswith((".pyc", ".ckpt"))]


def test_wheel_says_what_it_is_and_needs(wheel):
    archive = zipfile.ZipFile(wheel)
    [metadata] = [name for name in archive.namelist() if name.endswith("/METADATA")]
    text = archive.read(metadata).decode()
    assert f"\nVersion: {cmd_lightning.__version__}\n" in text
    assert "Apache-2.0" in text
    assert "Requires-Python: >=3.11" in text
    [scripts] = [name for name in archive.namelist() if name.endswith("entry_points.txt")]
    assert "cmd-lightning = cmd_lightning.cli:main" in archive.read(scripts).decode()


def test_installed_package_works_and_takes_no_other_name(python, wheel, tmp_path):
    """From the unpacked wheel alone, far from the checkout, with other people's `zoo` and `data` in the way."""
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    for name in ("zoo", "data", "configs"):
        (tmp_path / "site" / name).mkdir()
        (tmp_path / "site" / name / "__init__.py").write_text("raise RuntimeError('this is another package')")
    script = """
import sys
import cmd_lightning.zoo, cmd_lightning.data.webvid, cmd_lightning.cli, cmd_lightning.pipeline, cmd_lightning.callbacks
assert cmd_lightning.__file__.startswith(sys.argv[1]), cmd_lightning.__file__
cmd_lightning.zoo.import_all()
from cmd_lightning.zoo.motion.dit import MotionDiT
assert "motion" in [p.name for p in __import__("pathlib").Path(cmd_lightning.zoo.__file__).parent.iterdir()]
taken = {"zoo", "data", "configs", "networks", "motion"} & set(sys.modules)
assert not taken, taken
"""
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "site")}
    done = python.run("-c", script, tmp_path / "site", cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr


def test_metrics_import_no_other_room():
    script = """
import sys, pkgutil, importlib
import cmd_lightning.metrics
for module in pkgutil.iter_modules(cmd_lightning.metrics.__path__):
    importlib.import_module("cmd_lightning.metrics." + module.name)
ours = {"metrics", "metric_names", "video_io", "video_file", "image_io", "viewing"}
ours |= {"atomic_files", "errors", "provenance", "compat", "resizing"}
taken = {name.split(".")[1] for name in sys.modules if name.startswith("cmd_lightning.")} - ours
taken |= {"lightning", "pytorch_lightning", "diffusers", "open_clip"} & set(sys.modules)
assert not taken, taken
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_metrics_are_quick_to_import():
    """CPU seconds of what they add to torch and torchmetrics, so that a busy machine does not matter."""
    script = """
import time, torch, torchmetrics
start = time.process_time()
import cmd_lightning.metrics
print(time.process_time() - start)
"""
    command = [sys.executable, "-c", script]
    runs = [subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True).stdout for _ in range(3)]
    assert statistics.median(map(float, runs)) < 0.3
