"""Trains an included model from scratch, in calls of any length.

    python -m benchmarks.retrain shapes32 --minutes 60 --threads 1    # two CPU cores: one hour, then two more
    python -m benchmarks.retrain shapes64 --minutes 8    # a GPU: rerun until it reports completion
    python -m benchmarks.retrain emoji64 --minutes 8     # downloads its data first

A call resumes where the last one ended: the data, then the autoencoder, then content and motion model side by side,
then the export to outputs/NAME/model. Each stage is `cmd-lightning fit -c configs/NAME/STAGE.yaml`, and nothing else.
"""

import argparse
import shutil
import subprocess
import time
from pathlib import Path

import yaml

from benchmarks.emoji.shards import prepare
from cmd_lightning.commands.stages import COMMAND, Stage, fit
from cmd_lightning.errors import InputError, program

ROUNDS = (("autoencoder",), ("content", "motion"))  # stages that train at the same time
DATA = {"emoji64": prepare}
"""What makes the shards of a model that is not trained on the procedural world."""
SAMPLING = {
    "shapes32": ("--steps", "16", "--guidance", "content=2,motion=3"),
    "emoji64": ("--steps", "16", "--guidance", "content=2,motion=2"),
    **dict.fromkeys(("shapes32paper", "shapes64"), ("--steps", "50", "--guidance", "content=1.5,motion=4")),
}
"""Options of the export by model, as it ships; other folders take the defaults of `cmd-lightning export`."""
SHORTEST = 1.0  # minutes below which a call starts no further stage


def main() -> int:
    """Trains for the given time; returns 0 when all is complete or the time is up."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="folder of configs/, e.g. shapes32")
    parser.add_argument("--minutes", type=float, default=8.0, help="of training; starting and writing come on top")
    parser.add_argument("--threads", type=int, help="CPU threads of a stage; by default as torch chooses")
    parser.add_argument("overrides", nargs="*", help="options of every `fit`, after --, e.g. -- --data.num_workers 12")
    options = parser.parse_args()
    if any("max_steps" in word for word in options.overrides):
        parser.error("--trainer.max_steps: the configs say when a stage is done; change it there")
    if not Path("configs", options.name, f"{ROUNDS[0][0]}.yaml").is_file():
        raise InputError(
            f"{options.name}: no folder of configs/ with an autoencoder.yaml; there are {', '.join(SAMPLING)}"
        )
    if options.minutes <= 0:
        raise InputError(f"--minutes {options.minutes}: give a positive number")
    if options.name in DATA:
        DATA[options.name]()
    deadline = time.monotonic() + 60 * options.minutes
    for names in ROUNDS:
        stages = [stage_of(options.name, name) for name in names]
        left = deadline - time.monotonic()
        pending = [stage for stage in stages if stage.trained.steps < total(stage)]
        if pending and left > 60 * SHORTEST:
            fit(dict.fromkeys(pending, left), options.overrides, options.threads)
        for stage in stages:
            print(f"{stage.name}: {stage.trained.steps} of {total(stage)} steps", flush=True)
        if any(stage.trained.steps < total(stage) for stage in stages):
            print("The time is up; the same command resumes from here.")
            return 0
    if code := export(options.name):
        return code
    print("All is done.")
    return 0


def stage_of(model: str, name: str) -> Stage:
    """A stage of a model."""
    return Stage(name, Path("configs", model, f"{name}.yaml"), Path("outputs", model, name))


def total(stage: Stage) -> int:
    """Steps that the config of a stage asks for."""
    return yaml.safe_load(stage.config.read_text())["trainer"]["max_steps"]


def export(name: str) -> int:
    """Writes outputs/NAME/model again."""
    folder = Path("outputs", name)
    shutil.rmtree(folder / "model", ignore_errors=True)
    checkpoints = [str(stage_of(name, stage).checkpoint) for stages in ROUNDS for stage in stages]
    options = ["--half", *SAMPLING.get(name, ())]
    return subprocess.run([*COMMAND, "export", *checkpoints, str(folder / "model"), *options]).returncode


if __name__ == "__main__":
    program(main)
