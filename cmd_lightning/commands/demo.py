"""`demo`: what the shipped model can do, or with --fit the whole path from scratch; and a page about what came out."""

from __future__ import annotations

import json
import shlex
import shutil
import time
from collections.abc import Iterator, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from cmd_lightning.errors import InputError, check_positive

MODEL = "shapes32"
"""The shipped model, and the folder of configs that trained it."""

STEPS = {"autoencoder": 600, "content": 500, "motion": 300}
"""Training steps of each stage of a brief fit, so that two cores need about seven minutes for all."""

SECONDS = 450
"""Longest time of training in a brief fit."""

SHARES = {"autoencoder": 0.25, "content": 0.4, "motion": 0.35}
"""The part of this time that a stage has at most."""

EVALUATED = 64  # test clips, and validation clips of a brief fit
LEVELS = ("plain", "mixed")  # of the test clips, half of the clips each
EMA_DECAY = 0.99  # below the configs' value: a brief fit must forget where it started

SAMPLING_STEPS, GUIDANCE = 50, "content=2,motion=1"  # of a model that was trained briefly; the other brings its own

PROMPTS = (
    "a red circle moves left",
    "a large yellow square moves right",
    "a green triangle moves down",
    "a blue circle moves up right",
    "a large white diamond moves down left",
    "a cyan square moves up",
    "a pink circle moves down right",
    "a large orange triangle moves up left",
)

RECORD = "demo.json"
"""Settings of the demo; a folder without it is not the demo's, and is left alone."""


def demo(
    *,
    out: str = "outputs/demo",
    fit: bool = False,
    steps: int | None = None,
    seconds: int | None = None,
    seed: int = 0,
) -> None:
    """Shows the shipped model: makes test clips, scores, generates from captions, writes a page. About a minute.

    It runs the commands that you would, prints each, and leaves shards, configs, logs and videos in OUT, with
    OUT/report.html to look at. With --fit it first trains all three stages from scratch, and shows those models
    instead: rough, because brief; ten minutes on two cores at most.

    Args:
        out: Folder for everything; an earlier demo in it is replaced.
        fit: Train briefly instead of taking the shipped model.
        steps: With --fit, training steps of each stage; by default 600, 500 and 300.
        seconds: With --fit, longest time of training, of which a quarter is for the autoencoder, 40 % for content,
            the rest for motion; by default 450. A stage whose time is up ends early.
        seed: Seed of the test clips, of training, and of every video.
    """
    for option, value in (("steps", steps), ("seconds", seconds)):
        if value is not None:
            check_positive(**{option: value})
            if not fit:
                raise InputError(f"--{option} {value}: nothing is trained; give --fit too")
    from cmd_lightning.commands.demo_page import write_page

    folder = Path(out)
    settings: dict[str, Any] = {
        "fit": fit,
        "model": (folder / "model").as_posix() if fit else MODEL,
        "seed": seed,
        "evaluated": EVALUATED,
        "levels": LEVELS,
        "prompts": PROMPTS,
    }
    if fit:
        settings |= {
            "steps": dict.fromkeys(STEPS, steps) if steps else STEPS,
            "seconds": seconds or SECONDS,
            "ema_decay": EMA_DECAY,
        }
    clear(folder)
    (folder / RECORD).write_text(json.dumps(settings, indent=2) + "\n")
    settings["commands"] = [run_command([str(word) for word in words]) for words in commands(folder, settings)]
    (folder / RECORD).write_text(json.dumps(settings, indent=2) + "\n")
    print(write_page(folder, settings))


def clear(folder: Path) -> None:
    """Makes `folder` an empty one, provided that only an earlier demo is lost."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"--out {folder}: this is a file; give a folder")
    if folder.is_dir() and any(folder.iterdir()):
        if not (folder / RECORD).is_file():
            raise InputError(f"--out {folder}: it holds something else than a demo; give a new folder, or empty it")
        shutil.rmtree(folder.resolve())
    folder.mkdir(parents=True, exist_ok=True)


def commands(folder: Path, settings: dict[str, Any]) -> Iterator[Sequence[object]]:
    """The commands of the demo, each when what it reads is written."""
    seed, model = settings["seed"], settings["model"]
    if settings["fit"]:
        for stage in STEPS:
            yield "fit", "-c", write_config(stage, folder, stage_settings(stage, folder, settings))
        sampling = ("--steps", SAMPLING_STEPS, "--guidance", GUIDANCE)
        yield "export", *(folder / stage / "last.ckpt" for stage in STEPS), model, *sampling
    for level in settings["levels"]:
        number = settings["evaluated"] // len(settings["levels"])
        options = ("--split", "test", "--level", level, "--num", number, "--size", 32, "--seed", seed)
        yield "shards", "synth", "--out", folder / "shards" / level, *options
    yield "test", "-c", write_config("cmd", folder, test_settings(folder, settings))
    prompts = folder / "prompts.txt"
    prompts.write_text("\n".join(settings["prompts"]) + "\n")
    yield "generate", model, "--prompts", prompts, "--seed", seed, "--out", folder / "samples"


def run_command(arguments: list[str]) -> dict[str, Any]:
    """Prints one command, runs it in this process, and gives it with the seconds that it took."""
    from cmd_lightning.cli import PROGRAM, main

    command = shlex.join([PROGRAM, *arguments])
    print(f"\n$ {command}", flush=True)
    start = time.perf_counter()
    if code := main(arguments):
        raise InputError(f"demo: the last command ended with code {code}; its own message is above")
    return {"command": command, "seconds": round(time.perf_counter() - start, 1)}


def write_config(name: str, folder: Path, changes: dict[str, Any]) -> Path:
    """Writes configs/shapes32/NAME.yaml with the demo's paths and `changes` to `folder`."""
    import yaml

    text = files("cmd_lightning").joinpath("configs", MODEL, f"{name}.yaml").read_text()
    here = json.dumps(folder.as_posix())[1:-1]
    config = merged(json.loads(json.dumps(yaml.safe_load(text)).replace(f"outputs/{MODEL}", here)), changes)
    path = folder / f"{name}.yaml"
    path.write_text(f"# configs/{MODEL}/{name}.yaml, changed for the demo.\n{yaml.safe_dump(config, sort_keys=False)}")
    return path


def merged(config: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """`config` with `changes` put in, mapping by mapping; another class takes the place of one with its arguments."""
    for key, value in changes.items():
        old = config.get(key)
        if isinstance(value, dict) and isinstance(old, dict):
            own = old.get("class_path")
            value = merged(old, value) if value.get("class_path", own) == own else value
        config[key] = value
    return config


def stage_settings(stage: str, folder: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """What a brief fit changes in the config of a stage."""
    steps, seed = settings["steps"][stage], settings["seed"]
    schedule = {"warmup_steps": min(50, steps // 10), "decay": "cosine", "total_steps": steps}
    model: dict[str, Any] = {"schedule": {"init_args": schedule}}
    if stage != "autoencoder":  # after a brief fit, samples of this prediction are blurred, of others grainy
        model["objective"] = {"init_args": {"prediction": "sample"}}
    trainer = {
        "max_steps": steps,
        "max_time": {"seconds": max(1, round(SHARES[stage] * settings["seconds"]))},
        "val_check_interval": max(1, steps // 5),
        "num_sanity_val_steps": 0,
        "log_every_n_steps": max(1, min(10, steps // 20)),
        "callbacks": [
            {"class_path": "EMA", "init_args": {"decay": settings["ema_decay"]}},
            {"class_path": "LastCheckpoint"},
        ],
    }
    return {
        "seed_everything": seed,
        "model": {"init_args": model},
        "data": {"init_args": {"val_clips": settings["evaluated"], "seed": seed}},
        "trainer": trainer | quiet(stage, folder),
    }


def test_settings(folder: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """What the demo changes in the config of the three stages together: the model, and clips from its own shards."""
    shards = [(folder / "shards" / level / "test").as_posix() for level in settings["levels"]]
    data = {"test_shards": shards, "num_frames": 16, "size": 32, "stride": 1, "batch_size": 16}
    return {
        "seed_everything": settings["seed"],
        "model": {"init_args": {"model": settings["model"]}},
        "data": {"class_path": "WebVidDataModule", "init_args": data},
        "trainer": quiet("cmd", folder),
    }


def quiet(name: str, folder: Path) -> dict[str, Any]:
    """Trainer settings: the log is FOLDER/logs/NAME/metrics.csv, and no summary of modules."""
    log = {"save_dir": (folder / "logs").as_posix(), "name": "", "version": name}
    logger = {"class_path": "lightning.pytorch.loggers.CSVLogger", "init_args": log}
    return {"logger": logger, "enable_model_summary": False, "devices": 1}
