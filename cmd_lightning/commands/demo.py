"""`demo`: the whole path on procedural data with the commands that a user has, and a page about what came out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cmd_lightning.errors import InputError

STEPS = {"autoencoder": 600, "content": 600, "motion": 800}
"""Training steps of each stage, so that two cores need about six minutes for all."""

SHARES = {"autoencoder": 0.25, "content": 0.4, "motion": 0.35}
"""The part of the time that a stage has at most."""

EVALUATED = 64
"""Clips of the validation split, and of the test split; no more than there are to train on."""

EMA_DECAY = 0.99
"""Below the configs' value: a brief fit must forget where it started."""

SAMPLING = ("--steps", "50", "--guidance", "content=2,motion=1")
"""As in configs/shapes/cmd.yaml."""

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
    *, out: str = "outputs/demo", clips: int = 4000, steps: int | None = None, seconds: int = 450, seed: int = 0
) -> None:
    """The whole path on procedural data: makes clips, fits each stage briefly, scores, generates, writes a page.

    It runs the commands that you would, prints each, and leaves shards, configs, checkpoints, logs, model folder
    and videos in OUT, with OUT/report.html to look at. Ten minutes on two cores at most.

    Args:
        out: Folder for everything; an earlier demo in it is replaced.
        clips: Clips to train on.
        steps: Training steps of each stage; by default 600, 600 and 800.
        seconds: Longest time of training, of which a quarter is for the autoencoder, 40 % for content, the rest for
            motion; a stage whose time is up ends early.
        seed: Seed of the data, of training, and of the first video.
    """
    for option, value in (("clips", clips), ("steps", steps), ("seconds", seconds)):
        if value is not None and value < 1:
            raise InputError(f"--{option} {value}: give at least 1")
    import json

    from cmd_lightning.commands.demo_page import write_page

    folder = Path(out)
    settings: dict[str, Any] = {
        **{"clips": clips, "evaluated": min(EVALUATED, clips), "steps": steps, "seconds": seconds, "seed": seed},
        **{"ema_decay": EMA_DECAY, "sampling": " ".join(SAMPLING), "prompts": PROMPTS},
    }
    clear(folder)
    (folder / RECORD).write_text(json.dumps(settings, indent=2) + "\n")
    timings = run_all(folder, {**STEPS} if steps is None else dict.fromkeys(STEPS, steps), clips, seconds, seed)
    settings["commands"] = [{"command": command, "seconds": round(taken, 1)} for command, taken in timings]
    (folder / RECORD).write_text(json.dumps(settings, indent=2) + "\n")
    print(write_page(folder, settings))


def clear(folder: Path) -> None:
    """Makes `folder` an empty one, provided that only an earlier demo is lost.

    Raises:
        InputError: It is a file, or holds something else than a demo.
    """
    import shutil

    if folder.exists() and not folder.is_dir():
        raise InputError(f"--out {folder}: this is a file; give a folder")
    if folder.is_dir() and any(folder.iterdir()):
        if not (folder / RECORD).is_file():
            raise InputError(f"--out {folder}: it holds something else than a demo; give a new folder, or empty it")
        shutil.rmtree(folder.resolve())
    folder.mkdir(parents=True, exist_ok=True)


def run_all(folder: Path, steps: dict[str, int], clips: int, seconds: int, seed: int) -> list[tuple[str, float]]:
    """Runs every command of the demo; gives each with the seconds that it took."""
    timings = []

    def run(*words: object) -> None:
        timings.append(run_command([str(word) for word in words]))

    for split, number in (("train", clips), ("val", min(EVALUATED, clips)), ("test", min(EVALUATED, clips))):
        shards = folder / "shards"
        run("shards", "synth", "--out", shards, "--split", split, "--num", number, "--size", 32, "--seed", seed)
    for stage in STEPS:
        run("fit", "-c", write_config(stage, folder, stage_settings(stage, folder, steps[stage], seconds, seed)))
    run("test", "-c", write_config("cmd", folder, {"seed_everything": seed, "trainer": quiet("cmd", folder)}))
    model = folder / "model"
    run("export", *(folder / stage / "last.ckpt" for stage in STEPS), model)

    prompts = folder / "prompts.txt"
    prompts.write_text("\n".join(PROMPTS) + "\n")
    run("generate", model, "--prompts", prompts, "--seed", seed, *SAMPLING, "--out", folder / "samples")
    return timings


def run_command(arguments: list[str]) -> tuple[str, float]:
    """Prints one command, runs it in this process, and gives it with the seconds that it took.

    Raises:
        InputError: It failed.
    """
    import shlex
    import time

    from cmd_lightning.cli import PROGRAM, main

    command = shlex.join([PROGRAM, *arguments])
    print(f"\n$ {command}", flush=True)
    start = time.perf_counter()
    if code := main(arguments):
        raise InputError(f"demo: the last command ended with code {code}; its own message stands above")
    return command, time.perf_counter() - start


def write_config(name: str, folder: Path, changes: dict[str, Any]) -> Path:
    """Writes configs/shapes/NAME.yaml with the demo's paths and `changes` to `folder`."""
    import json
    from importlib.resources import files

    import yaml

    text = files("cmd_lightning").joinpath("configs", "shapes", f"{name}.yaml").read_text()
    here = json.dumps(folder.as_posix())[1:-1]
    config = merged(json.loads(json.dumps(yaml.safe_load(text)).replace("outputs/shapes", here)), changes)
    path = folder / f"{name}.yaml"
    path.write_text(
        f"# configs/shapes/{name}.yaml, made brief for the demo.\n{yaml.safe_dump(config, sort_keys=False)}"
    )
    return path


def merged(config: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """`config` with `changes` put in, mapping by mapping."""
    for key, value in changes.items():
        both = isinstance(value, dict) and isinstance(config.get(key), dict)
        config[key] = merged(config[key], value) if both else value
    return config


def stage_settings(stage: str, folder: Path, steps: int, seconds: int, seed: int) -> dict[str, Any]:
    """What a brief fit changes in the config of a stage."""
    callbacks = [
        {"class_path": "EMA", "init_args": {"decay": EMA_DECAY}},
        {"class_path": "LastCheckpoint", "init_args": {"folder": (folder / stage).as_posix()}},
    ]
    schedule = {"warmup_steps": min(50, steps // 10), "decay": "cosine", "total_steps": steps}
    trainer = {
        "max_steps": steps,
        "max_time": {"seconds": max(1, round(SHARES[stage] * seconds))},
        "val_check_interval": max(1, steps // 5),
        "num_sanity_val_steps": 0,
        "log_every_n_steps": max(1, min(10, steps // 20)),
        "callbacks": callbacks,
    }
    model: dict[str, Any] = {"schedule": {"init_args": schedule}}
    if stage != "autoencoder":  # after a brief fit, samples of this prediction are blurred, of others grainy
        model["objective"] = {"init_args": {"prediction": "sample"}}
    return {
        "seed_everything": seed,
        "model": {"init_args": model},
        "trainer": trainer | quiet(stage, folder),
    }


def quiet(name: str, folder: Path) -> dict[str, Any]:
    """Trainer settings: the log is FOLDER/logs/NAME/metrics.csv, and no summary of modules."""
    log = {"save_dir": (folder / "logs").as_posix(), "name": "", "version": name}
    logger = {"class_path": "lightning.pytorch.loggers.CSVLogger", "init_args": log}
    return {"logger": logger, "enable_model_summary": False, "devices": 1}
