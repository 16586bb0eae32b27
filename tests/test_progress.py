"""The progress bar in a pseudo-terminal, whose screen is read back."""

import os
import pty
import re
import sys
import time

from cmd_lightning.progress import progress


def screen(monkeypatch, work):
    """What is written to a terminal of 80 columns while `work` runs."""
    leader, follower = pty.openpty()
    monkeypatch.setenv("COLUMNS", "80")
    with os.fdopen(follower, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        work()
        terminal.flush()
        text = os.read(leader, 100_000).decode()
    os.close(leader)
    return text.split("\r")


def test_it_moves_within_a_long_step_and_tells_the_time_left(monkeypatch):
    def work():
        with progress("encoding", 4) as done:
            time.sleep(0.3)
            done(1)
            time.sleep(1.2)

    lines = screen(monkeypatch, work)
    shown = [line for line in lines if line.startswith("encoding:  25 %|")]
    assert len(shown) >= 2
    assert all(re.search(r"1/4, \d\d:\d\d left$", line) for line in shown)
    assert not lines[-1].strip()  # nothing is left of it


def test_without_a_number_of_steps_it_tells_the_time(monkeypatch):
    def work():
        with progress("loading"):
            time.sleep(1.3)

    shown = {line.strip() for line in screen(monkeypatch, work)}
    assert {"loading: 00:00", "loading: 00:01"} <= shown


def test_a_file_gets_none_of_it(capsys):
    with progress("loading", 3) as done:
        done(2)
    assert capsys.readouterr().err == ""
