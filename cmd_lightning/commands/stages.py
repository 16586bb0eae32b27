"""The stages of a model, each trained by `cmd-lightning fit` in a separate process."""

from __future__ import annotations

import csv
import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

from cmd_lightning.cli import PROGRAM
from cmd_lightning.errors import InputError

Log = dict[str, list[tuple[int, float]]]
"""Logged values with their steps, by name."""

COMMAND = (sys.executable, "-m", "cmd_lightning")

REPORTED = 60.0
"""Seconds between progress lines of a stage without a terminal, as in a log file."""

OUTPUT = "output.txt"
"""File with the output of a stage's process, in its folder."""


class Trained(NamedTuple):
    """The progress of a stage, in all calls so far."""

    steps: int
    seconds: float


@dataclass(frozen=True)
class Stage:
    """A stage of a model.

    Attributes:
        name: Autoencoder, content or motion.
        config: The config that trains it.
        folder: Where its checkpoint and log are, the config's `trainer.default_root_dir`.
    """

    name: str
    config: Path
    folder: Path

    @property
    def checkpoint(self) -> Path:
        """Its last checkpoint."""
        return self.folder / "last.ckpt"

    @property
    def trained(self) -> Trained:
        """Steps and seconds of training in its checkpoint; 0 without one."""
        return trained(self.checkpoint)

    def command(self, *options: str) -> list[str]:
        """The command that trains it, or resumes it, without the program's name."""
        return ["fit", "-c", self.config.as_posix(), "--ckpt_path", "last", *options]


def trained(checkpoint: Path) -> Trained:
    """Steps and seconds of training in a checkpoint; 0 without one."""
    import torch

    if not checkpoint.is_file():
        return Trained(0, 0.0)
    state = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)
    timer = state["callbacks"].get("Timer", {"time_elapsed": {}})
    return Trained(state["global_step"], timer["time_elapsed"].get("train", 0.0))


def fit(
    stages: Mapping[Stage, float | None], options: Sequence[str] = (), threads: int | None = None
) -> list[dict[str, Any]]:
    """Trains stages at the same time, and shows their progress; on Ctrl-C each writes a checkpoint.

    Args:
        stages: The stages, each with its training time in this call in seconds, or None for the time in its config.
            Their commands are printed.
        options: Options of every `fit`.
        threads: CPU threads of each; by default chosen by torch.

    Returns:
        Each command, with the seconds until all ended.

    Raises:
        InputError: A training failed; the message names the file with its output.
    """
    environment = os.environ | ({"OMP_NUM_THREADS": str(threads)} if threads else {})
    with _ending_on_signals(), ExitStack() as stack:
        start, running, commands = time.monotonic(), [], []
        for stage, seconds in stages.items():
            limit: list[str] = []
            if seconds is not None:  # Lightning's max_time includes earlier calls
                limit = ["--trainer.max_time", json.dumps({"seconds": round(stage.trained.seconds + seconds)})]
            words = stage.command(*limit, *options)
            commands.append(shlex.join([PROGRAM, *words]))
            print(f"\n$ {commands[-1]}", flush=True)
            stage.folder.mkdir(parents=True, exist_ok=True)
            output = stack.enter_context((stage.folder / OUTPUT).open("ab"))
            command = [*COMMAND, *words, "--trainer.enable_progress_bar", "false"]
            # In a new session: Ctrl-C interrupts only this process, which then ends the others, once.
            process = subprocess.Popen(
                command, env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
            )
            stack.callback(_end, process)
            running.append((stage, process))
        if failed := _watch(running, stages):
            stage, code = failed
            path = stage.folder / OUTPUT
            last = (path.read_text(errors="replace").strip().splitlines() or ["nothing"])[-1]
            raise InputError(
                f"{stage.name}: its training ended with code {code}: {last.removeprefix(PROGRAM + ': ')} "
                f"(see {path} for its output)"
            )
    for stage in stages:
        print(f"{stage.name}: {stage.trained.steps} steps in {stage.trained.seconds / 60:.1f} minutes", flush=True)
    taken = round(time.monotonic() - start, 1)
    return [{"command": command, "seconds": taken} for command in commands]


@contextmanager
def _ending_on_signals() -> Iterator[None]:
    """Makes SIGTERM and SIGHUP raise an exception, so that no training process is left running."""

    def leave(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = {signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)}  # Windows has only the first
    before = {number: signal.signal(number, leave) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ends a process that still runs, and waits until it has written its checkpoint."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    process.wait()


def _watch(
    running: Sequence[tuple[Stage, subprocess.Popen[bytes]]], seconds: Mapping[Stage, float | None]
) -> tuple[Stage, int] | None:
    """Shows a progress bar for each process until all have ended; returns a failed one with its exit code."""
    from tqdm import tqdm

    limited = "{desc:11} {percentage:3.0f}%|{bar}| {unit}{postfix}"
    before = {stage: stage.trained.seconds for stage, _ in running}
    with ExitStack() as stack:
        bars = [
            stack.enter_context(
                tqdm(
                    desc=stage.name,
                    total=limit and before[stage] + limit,
                    position=place,
                    bar_format=limited if limit else "{desc:11} {elapsed}{postfix}",
                    disable=None,  # disabled without a terminal
                )
            )
            for place, (stage, _) in enumerate(running)
            for limit in [seconds[stage]]
        ]
        start = reported = time.monotonic()
        while True:
            due = not sys.stderr.isatty() and time.monotonic() >= reported + REPORTED
            reported = time.monotonic() if due else reported
            codes = [process.poll() for _, process in running]
            for (stage, _), code, bar in zip(running, codes, bars, strict=True):
                if code:
                    return stage, code
                if code is None:
                    passed = time.monotonic() - start
                    if bar.total:
                        bar.n = min(before[stage] + passed, bar.total)
                        bar.unit = f"{bar.format_interval(bar.total - bar.n)} left"
                    bar.set_postfix_str(state(stage))
                    if due:
                        print(f"{stage.name}: {state(stage)}", flush=True)
            if None not in codes:
                return None
            time.sleep(0.5)


def state(stage: Stage) -> str:
    """The last step and loss in a stage's log, or "starting"."""
    log = read_log(stage.folder)
    if not log.get("train/loss"):
        return "starting"
    step, loss = log["train/loss"][-1]
    return f"step {step}, loss {loss:.4f}"


def read_log(folder: Path) -> Log:
    """The values that CSVLogger wrote to FOLDER/log in all calls, with their steps."""
    log: Log = {}
    versions = sorted(folder.glob("log/version_*/metrics.csv"), key=lambda path: int(path.parent.name[8:]))
    for name, step, value in (entry for path in versions for entry in _entries(path)):
        points = log.setdefault(name, [])
        while points and points[-1][0] >= step:  # the training was resumed from an earlier step
            points.pop()
        points.append((step, value))
    return log


def _entries(path: Path) -> Iterator[tuple[str, int, float]]:
    with path.open(newline="") as file:
        row: dict[str, Any]
        for row in csv.DictReader(file):
            for name, value in row.items():
                if value and name not in ("step", "epoch"):
                    yield name, int(row["step"]), float(value)
