"""The tutorials: their notebooks are those of their sources, and their programs run."""

import os
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted((ROOT / "docs/tutorials").glob("[!_]*.py"))


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_a_notebook_has_the_cells_of_its_source_and_their_outputs(source):
    jupytext = pytest.importorskip("jupytext")
    *cells, protocol = jupytext.read(source.with_suffix(".ipynb")).cells
    run = f"run python docs/tutorials {source.stem}"
    assert [cell.source for cell in cells] == [cell.source for cell in jupytext.read(source).cells], run
    assert protocol.cell_type == "markdown" and source.with_suffix(".ipynb").stat().st_size < 400_000
    outputs = [output for cell in cells for output in cell.get("outputs", ())]
    assert "CPU minutes" in protocol.source, run
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert not any(output.output_type == "error" for output in outputs)


@pytest.mark.slow
@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_a_tutorial_runs(source, python, tmp_path):
    """With few steps and few clips, as a program; without a notebook, nothing is displayed."""
    pytest.importorskip("IPython")
    shutil.copy(source, tmp_path / "tutorial.py")
    environment = os.environ | {"PYTHONPATH": str(ROOT), "CMD_SHORT": "1", "MPLBACKEND": "agg"}
    done = python.run("tutorial.py", cwd=tmp_path, env=environment)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
