"""The progress bar in a terminal, with all its output recorded."""

import io
import re
import sys
import time

import pytest

from cmd_lightning.progress import progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def screen(monkeypatch):
    """Gives what is written to a terminal while a function runs, one text per renewal of the line."""

    def watch(work):
        terminal = Terminal()
        monkeypatch.setattr(sys, "stderr", terminal)
        work()
        return terminal.getvalue().split("\r")

    return watch


def test_it_moves_within_a_long_step_and_tells_the_time_left(screen):
    def work():
        with progress("encoding", 4) as done:
            time.sleep(0.3)
            done(1)
            time.sleep(1.2)

    lines = screen(work)
    shown = [line for line in lines if line.startswith("encoding:  25 %|")]
    assert len(shown) >= 2
    assert all(re.search(r"1/4, \d\d:\d\d left$", line) for line in shown)
    assert not lines[-1].strip()  # nothing is left of it


def test_without_a_number_of_steps_it_tells_the_time(screen):
    def work():
        with progress("loading"):
            time.sleep(1.3)

    shown = {line.strip() for line in screen(work)}
    assert {"loading: 00:00", "loading: 00:01"} <= shown


def test_a_file_gets_none_of_it(capsys):
    with progress("loading", 3) as done:
        done(2)
    assert capsys.readouterr().err == ""
