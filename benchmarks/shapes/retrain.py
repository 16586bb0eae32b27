"""Trains a shipped model of the procedural world from scratch, in calls as short as wanted.

    python -m benchmarks.shapes.retrain shapes32 --minutes 60 --threads 1    # two CPU cores: one hour, then two more
    python -m benchmarks.shapes.retrain shapes64 --minutes 8    # a GPU: rerun until it reports completion

A call resumes where the last one ended: the autoencoder first, then content and motion model side by side, then the
export to outputs/NAME/model. Each stage is `cmd-lightning fit -c configs/NAME/STAGE.yaml`, and nothing else.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch
import yaml

from cmd_lightning.errors import InputError, program

ROUNDS = (("autoencoder",), ("content", "motion"))  # stages that train at the same time
EXPORT = ("--half", "--steps", "50", "--guidance", "content=1.5,motion=4")  # as the models ship
SHORTEST = 1.0  # minutes below which a call starts no further stage
COMMAND = (sys.executable, "-m", "cmd_lightning")


def main() -> int:
    """Trains for as long as asked for; 0 when all is done or the time is up, else the code of a fit that failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="folder of configs/, e.g. shapes32")
    parser.add_argument("--minutes", type=float, default=8.0, help="of training; starting and writing come on top")
    parser.add_argument("--threads", type=int, help="CPU threads of a stage; by default as torch chooses")
    parser.add_argument("overrides", nargs="*", help="options of every fit, after --, e.g. -- --data.num_workers 12")
    options = parser.parse_args()
    if any("max_steps" in word for word in options.overrides):
        parser.error("--trainer.max_steps: the configs say when a stage is done; change it there")
    if not Path("configs", options.name, f"{ROUNDS[0][0]}.yaml").is_file():
        raise InputError(
            f"{options.name}: no folder of configs/ with an autoencoder.yaml; there are shapes32, shapes64"
        )
    if options.minutes <= 0:
        raise InputError(f"--minutes {options.minutes}: give a positive number")
    # Whoever ends this program ends the fits that it started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    deadline = time.monotonic() + 60 * options.minutes
    for stages in ROUNDS:
        left = deadline - time.monotonic()
        pending = [stage for stage in stages if not Progress(options.name, stage).finished]
        if pending and left > 60 * SHORTEST:
            fits = [start(options.name, stage, left, options.threads, options.overrides) for stage in pending]
            try:
                codes = [fit.wait() for fit in fits]
            finally:
                for fit in fits:
                    fit.terminate()
            if any(codes):
                return abs(next(filter(None, codes)))  # negative after a signal
        progress = {stage: Progress(options.name, stage) for stage in stages}
        for stage, done in progress.items():
            print(f"{stage}: {done.steps} of {done.total} steps", flush=True)
        if not all(done.finished for done in progress.values()):
            print("The time is up; the same command resumes from here.")
            return 0
    if code := export(options.name):
        return code
    print("All is done.")
    return 0


class Progress:
    """How far a stage of a model has come.

    Attributes:
        total: Steps that its config asks for.
        steps: Steps that are done.
        seconds: Training time, in all calls so far.
    """

    def __init__(self, name: str, stage: str) -> None:
        self.total: int = yaml.safe_load(Path("configs", name, f"{stage}.yaml").read_text())["trainer"]["max_steps"]
        self.steps, self.seconds = elapsed(Path("outputs", name, stage, "last.ckpt"))

    @property
    def finished(self) -> bool:
        """Whether all steps are done."""
        return self.steps >= self.total


def elapsed(checkpoint: Path) -> tuple[int, float]:
    """Steps and seconds of training that went into a checkpoint; 0 where there is none."""
    if not checkpoint.is_file():
        return 0, 0.0
    state = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)
    timer = state["callbacks"].get("Timer", {"time_elapsed": {}})
    return state["global_step"], timer["time_elapsed"].get("train", 0.0)


def start(name: str, stage: str, seconds: float, threads: int | None, overrides: list[str]) -> subprocess.Popen:
    """Starts the fit of a stage, or resumes it."""
    until = Progress(name, stage).seconds + seconds  # Lightning's max_time counts from the first call on
    command = [*COMMAND, "fit", "-c", f"configs/{name}/{stage}.yaml", "--ckpt_path", "last"]
    command += ["--trainer.max_time", json.dumps({"seconds": round(until)}), *overrides]
    print("$", *command, flush=True)
    return subprocess.Popen(command, env=os.environ | ({"OMP_NUM_THREADS": str(threads)} if threads else {}))


def export(name: str) -> int:
    """Writes outputs/NAME/model again."""
    folder = Path("outputs", name)
    shutil.rmtree(folder / "model", ignore_errors=True)
    checkpoints = [str(folder / stage / "last.ckpt") for stages in ROUNDS for stage in stages]
    return subprocess.run([*COMMAND, "export", *checkpoints, str(folder / "model"), *EXPORT]).returncode


if __name__ == "__main__":
    program(main)
