import gc
import os
import pty
import subprocess
import sys
import termios
from pathlib import Path

import pytest

import cmd_lightning
from cmd_lightning.commands.loading import loading

UNUSED = (
    *("lightning", "torchmetrics", "tensorboard", "webdataset", "jsonargparse", "open_clip", "matplotlib", "imageio"),
    *("scipy", "pandas", "cmd_lightning.components", "cmd_lightning.metrics", "cmd_lightning.data"),
)
"""What `generate` has no use for."""


def test_generate_reports_at_once_and_imports_no_library_in_vain(tmp_path):
    """In a terminal, the first words come before torch; the libraries are those of sampling and writing."""
    script = f"""
import gc
import sys
from cmd_lightning.cli import main
from cmd_lightning.commands import loading as module
shown = module.progress
def progress(text):
    assert "torch" not in sys.modules
    return shown(text)
module.progress = progress
assert main(["generate", "shapes32", "--prompt", "a red circle moves left", "--steps", "1"]) == 0
loaded = [name for name in {UNUSED!r} if name in sys.modules]
assert not loaded, loaded
assert gc.get_freeze_count() > 100_000  # what was imported is never looked through
"""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    environment = os.environ | {"PYTHONPATH": str(Path(cmd_lightning.__path__[0]).parent)}
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=theirs) as process:
        os.close(theirs)
        shown = b""
        while part := read(ours):
            shown += part
    os.close(ours)
    assert process.returncode == 0, shown.decode()
    assert shown.lstrip(b"\r").startswith(b"loading shapes32: 00:0")


def read(terminal):
    """What is next on a terminal; nothing when its other end is closed."""
    try:
        return os.read(terminal, 4096)
    except OSError:
        return b""


@pytest.mark.parametrize("fails", [False, True])
def test_the_garbage_collector_is_off_only_while_loading(fails):
    try:
        with loading("a model"):
            assert not gc.isenabled()
            if fails:
                raise ZeroDivisionError
    except ZeroDivisionError:
        pass
    assert gc.isenabled()


def test_a_collector_that_is_off_stays_off():
    gc.disable()
    try:
        with loading("a model"):
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
