import json

import pytest

from benchmarks import sampling_gains
from benchmarks.sampling_gains import FEW, MEASURES
from cmd_lightning.pipeline import CMDPipeline


@pytest.mark.slow
def test_every_measure_is_taken_with_those_before_it(tmp_path, monkeypatch, capsys):
    out, compiled = tmp_path / "gains.json", []
    monkeypatch.setattr(CMDPipeline, "compile_networks", lambda self: compiled.append(self.unet.dtype))
    monkeypatch.setattr(sampling_gains, "ROUNDS", 1)
    words = ["gains", "--scale", "fifth", "--size", "64x64", "--steps", "1", "--device", "cpu", "--json", str(out)]
    monkeypatch.setattr("sys.argv", words)
    assert sampling_gains.main() == 0
    assert capsys.readouterr().out.splitlines()[-1] == "done"
    rows = json.loads(out.read_text())["rows"]
    assert [row["measure"] for row in rows] == list(MEASURES)
    assert [str(dtype) for dtype in compiled] == ["torch.bfloat16"] * 3
    for row in rows:
        parts = [row[name] for name in ("content", "motion", "autoencoder", "frames")]
        assert all(part > 0 for part in parts)
        assert row["seconds"] == pytest.approx(sum(parts))
        assert row["steps"] == 1 <= FEW
