"""Runs the tutorials and keeps what they print and show: `python docs/tutorials [NAME ...]`.

A tutorial is a Python file in jupytext's percent format, so that it can be read and linted as a program. This writes
NAME.ipynb next to NAME.py, with its outputs and with the machine and the time of the run; the site shows that file. Set
CMD_SHORT=1 for a run of seconds, which writes nothing.
"""

from __future__ import annotations

import os
import platform
import resource
import sys
import tempfile
from collections.abc import Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient

from cmd_lightning.provenance import processor

FOLDER = Path(__file__).resolve().parent


def cpu_seconds() -> float:
    """CPU seconds of all programs that this one has started and that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def execute(source: Path) -> nbformat.NotebookNode:
    """The notebook of a tutorial, run in a new folder, with a last cell that says where and how long."""
    notebook = jupytext.read(source)
    start = cpu_seconds()
    with tempfile.TemporaryDirectory() as folder:
        client = NotebookClient(notebook, timeout=None, coalesce_streams=True, resources={"metadata": {"path": folder}})
        client.execute()
    protocol = f"{processor()}, one thread, {(cpu_seconds() - start) / 60:.1f} CPU minutes"
    versions = f"torch {version('torch')}, Python {platform.python_version()}, {date.today()}"
    text = f"*The outputs on this page are of one run by `python docs/tutorials`: {protocol}; {versions}.*"
    notebook.cells.append(nbformat.v4.new_markdown_cell(text))
    return notebook


def main(names: Sequence[str]) -> int:
    """Run the named tutorials, or all."""
    os.environ |= {
        "OMP_NUM_THREADS": "1",
        "PYTHONWARNINGS": "ignore",
        "PYTHONPATH": str(FOLDER.parents[1]),  # of this checkout
    }
    for source in sorted(FOLDER.glob("[!_]*.py")):
        if names and source.stem not in names:
            continue
        notebook = execute(source)
        if not os.environ.get("CMD_SHORT"):
            nbformat.write(notebook, source.with_suffix(".ipynb"))
            print(source.with_suffix(".ipynb"))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
