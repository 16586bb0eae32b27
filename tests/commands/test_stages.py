"""Stages in separate processes: what is started, shown, ended, reported; a script replaces the training."""

import json
import os
import signal
import sys
import threading
import time

import pytest
import torch

from cmd_lightning.commands import stages
from cmd_lightning.commands.stages import Stage, fit, read_log, state, trained
from cmd_lightning.errors import InputError

SCRIPT = """
import signal, sys, time
from pathlib import Path
name = Path(sys.argv[3]).stem
signal.signal(signal.SIGTERM, lambda *_: (Path(name, "saved").touch(), sys.exit(143)))
print("cmd-lightning: about", name, flush=True)
Path(name, "argv").write_text("\\n".join(sys.argv[1:]))
while not Path("motion" if name == "content" else "content", "argv").exists():
    time.sleep(0.02)
time.sleep({seconds})
sys.exit({code} if name == "motion" else 0)
"""


@pytest.fixture
def two(tmp_path, monkeypatch):
    """Content and motion stage in the working folder."""
    monkeypatch.chdir(tmp_path)
    return [Stage(name, tmp_path / f"{name}.yaml", tmp_path / name) for name in ("content", "motion")]


@pytest.fixture
def interruptible():
    """SIGINT interrupts, also where this process runs in the background of a shell, which makes it ignore that."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def replace_training(monkeypatch, folder, seconds=0.0, code=0):
    (folder / "script.py").write_text(SCRIPT.format(seconds=seconds, code=code))
    monkeypatch.setattr(stages, "COMMAND", (sys.executable, str(folder / "script.py")))


def save(stage, steps, seconds):
    stage.folder.mkdir(exist_ok=True)
    timer = {"Timer": {"time_elapsed": {"train": seconds}}}
    torch.save({"global_step": steps, "callbacks": timer}, stage.checkpoint)


def test_commands_are_printed_run_and_returned(two, tmp_path, monkeypatch, capsys):
    replace_training(monkeypatch, tmp_path)
    save(two[0], 5, 100.0)
    done = fit({two[0]: 60.0, two[1]: None}, ["--trainer.devices", "1"])
    printed = [line[2:] for line in capsys.readouterr().out.splitlines() if line.startswith("$ ")]
    assert printed == [entry["command"] for entry in done] and all(entry["seconds"] > 0 for entry in done)
    ran = [(stage.folder / "argv").read_text().split("\n") for stage in two]
    assert ran[0][:3] == ["fit", "-c", str(tmp_path / "content.yaml")]
    # Lightning's max_time counts the time of earlier calls too.
    assert json.loads(ran[0][ran[0].index("--trainer.max_time") + 1]) == {"seconds": 160}
    assert "--trainer.max_time" not in ran[1]
    assert all("--ckpt_path last --trainer" in " ".join(words) for words in ran)
    assert (two[0].folder / stages.OUTPUT).read_text() == "cmd-lightning: about content\n"


def test_a_log_file_gets_lines_in_place_of_bars(two, tmp_path, monkeypatch, capsys):
    replace_training(monkeypatch, tmp_path, seconds=0.8)
    monkeypatch.setattr(stages, "REPORTED", 0.0)
    fit({two[0]: 60.0, two[1]: 60.0})
    printed = capsys.readouterr()
    assert "content: starting\nmotion: starting\n" in printed.out
    assert "starting" not in printed.err


def test_a_failed_stage_is_reported_and_the_other_one_saves(two, tmp_path, monkeypatch):
    replace_training(monkeypatch, tmp_path, seconds="60 if name == 'content' else 0", code=2)
    with pytest.raises(InputError, match="motion: its training ended with code 2: about motion"):
        fit(dict.fromkeys(two))
    assert (two[0].folder / "saved").exists()


@pytest.mark.parametrize(("number", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)])
def test_on_a_signal_all_stages_save(two, tmp_path, monkeypatch, interruptible, number, error):
    replace_training(monkeypatch, tmp_path, seconds=60)

    def send():
        while not all((stage.folder / "argv").exists() for stage in two):
            time.sleep(0.05)
        os.kill(os.getpid(), number)

    before = signal.getsignal(signal.SIGTERM)
    threading.Thread(target=send).start()
    with pytest.raises(error):
        fit(dict.fromkeys(two))
    assert all((stage.folder / "saved").exists() for stage in two)
    assert signal.getsignal(signal.SIGTERM) is before


def test_how_far_a_stage_is(two):
    assert trained(two[0].checkpoint) == (0, 0.0)
    save(two[0], 7, 12.5)
    assert two[0].trained == (7, 12.5)


def test_the_log_is_that_of_all_calls(two):
    """The second call resumed from step 20: what the first logged after it does not count."""
    for version, rows in (
        (0, [(10, 3.0), (20, 2.0), (30, 9.0)]),
        (1, [(30, 1.5)]),
        (10, [(40, 1.0)]),
        (2, [(35, 1.2)]),
    ):
        path = two[0].folder / "log" / f"version_{version}" / "metrics.csv"
        path.parent.mkdir(parents=True)
        path.write_text("step,epoch,train/loss,val/loss\n" + "".join(f"{step},0,{loss},\n" for step, loss in rows))
    assert read_log(two[0].folder) == {"train/loss": [(10, 3.0), (20, 2.0), (30, 1.5), (35, 1.2), (40, 1.0)]}
    assert state(two[0]) == "step 40, loss 1.0000"
    assert state(two[1]) == "starting"
