"""Trainings by `cmd-lightning fit` for benchmarks: each once, resumable, with its CPU seconds."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

import torch
import yaml

from cmd_lightning.cli import PROGRAM
from cmd_lightning.commands.stages import COMMAND
from cmd_lightning.errors import InputError

ROOT = Path(__file__).parent.parent
CLOCK = "benchmarks.cpu_clock.CPUClock"
FORMER_CLOCK = "cpu_seconds.json"
"""Next to a checkpoint: CPU seconds of trainings that began before checkpoints had a clock."""


class TimeIsUp(Exception):
    """A stage is not done yet."""


@dataclass(frozen=True)
class Trained:
    """What a stage has been trained for, in all calls.

    Attributes:
        checkpoint: Its last checkpoint.
        steps: Optimiser steps.
        seconds: CPU seconds.
        wall: Seconds of training, as Lightning counts them for `max_time`.
    """

    checkpoint: Path
    steps: int = 0
    seconds: float = 0.0
    wall: float = 0.0

    @classmethod
    def of(cls, checkpoint: Path) -> Trained:
        """What a checkpoint says; 0 without one.

        Raises:
            InputError: It was written without a clock.
        """
        if not checkpoint.is_file():
            return cls(checkpoint)
        state = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)
        callbacks, before = state["callbacks"], checkpoint.with_name(FORMER_CLOCK)
        if "CPUClock" not in callbacks and not before.is_file():
            raise InputError(f"{checkpoint}: it has no CPU seconds; remove {checkpoint.parent} to train it again")
        seconds = callbacks.get("CPUClock", {"seconds": 0.0})["seconds"]
        seconds += json.loads(before.read_text()) if before.is_file() else 0.0
        wall = callbacks.get("Timer", {"time_elapsed": {}})["time_elapsed"].get("train", 0.0)
        return cls(checkpoint, state["global_step"], seconds, wall)


def placed(
    config: Mapping[str, Any], folder: Path, seed: int, steps: int, limit: float | None = None
) -> dict[str, Any]:
    """A copy of a stage's config with its length, seed and folder.

    Args:
        config: The stage's config, with a `LastCheckpoint`.
        folder: Where all that it writes goes.
        seed: Of weights and noise.
        steps: Optimiser steps, the length of the cosine too.
        limit: CPU seconds after which it ends; its learning rate then stays constant, as its steps are not known.
    """
    made = deepcopy(dict(config))
    trainer = made["trainer"]
    made["seed_everything"] = seed
    schedule = {"warmup_steps": min(200, steps // 10)}
    decay = {"decay": "cosine", "total_steps": steps} if limit is None else {}
    made["model"]["init_args"]["schedule"]["init_args"] = schedule | decay
    trainer |= {"max_steps": steps, "default_root_dir": str(folder)}
    trainer["logger"]["init_args"]["save_dir"] = str(folder)
    clock = {"class_path": CLOCK, "init_args": {} if limit is None else {"limit": limit}}
    trainer["callbacks"] = [clock, *trainer["callbacks"]]
    return made


class Trainings:
    """Trains stages, each in a process of one thread; several may be trained at once, from several threads.

    Args:
        deadline: `time.monotonic()` at which training stops.
        fit: Runs `cmd-lightning` with these arguments, its messages in a file, and gives the exit code.
    """

    def __init__(self, deadline: float, fit: Callable[[Sequence[str], Path], int] | None = None) -> None:
        self.deadline, self.fit = deadline, fit or in_own_process
        self._locks: defaultdict[str, Lock] = defaultdict(Lock)

    def finished(self, config: Mapping[str, Any]) -> Trained:
        """A stage that `placed` made the config of, trained if it is not there yet.

        Raises:
            TimeIsUp: It is not done at the deadline; what it has learned is kept.
            InputError: The training failed.
        """
        with self._locks[config["trainer"]["default_root_dir"]]:  # threads that need the same stage wait for it
            return self._finished(config)

    def _finished(self, config: Mapping[str, Any]) -> Trained:
        folder = Path(config["trainer"]["default_root_dir"])
        checkpoint, path = folder / "last.ckpt", folder / "config.yaml"
        trained = Trained.of(checkpoint)
        if done(config, trained):
            return trained
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeIsUp
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump(dict(config), sort_keys=False))
        limit = ("--trainer.max_time", json.dumps({"seconds": round(trained.wall + left)}))
        words = ["fit", "-c", str(path), "--ckpt_path", "last", *limit]
        print("$", PROGRAM, *words, flush=True)
        output = folder / "output.txt"
        code = self.fit(words, output)
        if code:
            raise InputError(f"{path}: the training ended with code {code}; {output} has its messages")
        trained = Trained.of(checkpoint)
        if not done(config, trained):
            raise TimeIsUp
        return trained


def in_own_process(words: Sequence[str], output: Path) -> int:
    """Runs `cmd-lightning` in a process of one thread, and gives its exit code."""
    # The clock is a class of this checkout.
    search = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": search}
    with output.open("ab") as file:
        return subprocess.run([*COMMAND, *words], env=environment, stdout=file, stderr=subprocess.STDOUT).returncode


def done(config: Mapping[str, Any], trained: Trained) -> bool:
    """Whether a stage has all the steps, or the CPU seconds, that its config asks for."""
    [clock] = [one for one in config["trainer"]["callbacks"] if one["class_path"] == CLOCK]
    limit = clock["init_args"].get("limit")
    return trained.steps >= config["trainer"]["max_steps"] or (limit is not None and trained.seconds >= limit)
