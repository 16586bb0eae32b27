"""The configs of a `train` run: those of configs/clips64, for the clips and the hardware that there are."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cmd_lightning.errors import InputError

if TYPE_CHECKING:
    from cmd_lightning.commands.stages import Stage
    from cmd_lightning.commands.train import Run

BASE = "clips64"
STAGES = {
    "autoencoder": "clip <-> content frame (its first frame) and motion latent",
    "content": "captions or classes -> content frame",
    "motion": "content frame -> motion latent",
}
"""The stages, in order, and what each learns."""

ROUNDS = (("autoencoder",), ("content", "motion"))
"""Stages that may train at the same time."""

SHARES = {"autoencoder": 0.3, "content": 0.7, "motion": 0.7}
"""The part of the training time that a stage has, where those of a round train at the same time."""

FRAMES, FPS = 16, 8.0
"""Frames of a clip, and frames per second where the clips are long enough."""

TESTED = 64
"""Held-out clips that are scored."""

GPU: dict[str, dict[str, Any]] = {
    "autoencoder": {"width": 256, "depth": 4, "heads": 8, "head_dim": 32},
    "content": {"width": 128, "multipliers": [1, 2, 3], "layers": 2},
    "motion": {"width": 128, "layers": 2},
}
"""Arguments of the networks on a GPU, where they are larger."""

MOST_TOKENS = 77
"""Of a caption: what a longer one has beyond them is cut."""


def stage_of(folder: Path, name: str) -> Stage:
    """A stage of the run in `folder`."""
    from cmd_lightning.commands.stages import Stage

    return Stage(name, folder / f"{name}.yaml", folder / name)


def facts_of(splits: Mapping[str, Path], settings: Mapping[str, Any]) -> dict[str, Any]:
    """What a run has to know of its clips.

    Returns:
        "clips", how many were looked at; "condition", what videos are generated from: "captions", "classes" or
        "nothing"; "classes", their names; "prompts", some captions of held-out clips; "tokens", of the longest caption;
        "fps", at which clips are read.

    Raises:
        InputError: The clips are too short, or have no captions or classes where these are asked for.
    """
    from cmd_lightning.data.index import read_index
    from cmd_lightning.data.survey import survey

    seen, held_out = survey(str(splits["train"]), "CLIPS"), survey(str(splits["test"]), "CLIPS")
    if seen.frames < FRAMES:
        raise InputError(
            f"CLIPS {settings['clips']}: more than a tenth have fewer than {FRAMES} frames; leave the short ones out"
        )
    named = read_index(str(splits["train"]))["classes"]
    classes = named or [str(number) for number in range(max(seen.labels, default=-1) + 1)]
    if settings["classes"] and not classes:
        raise InputError("--classes: the clips have no classes; give a table with labels, or a subfolder for each")
    if settings["captions"] and not settings["classes"] and not (seen.captions or classes):
        raise InputError(f"--captions {settings['captions']}: no clip has a caption or a label; give a table with some")
    if settings["classes"] and len(seen.labels) < seen.clips:
        raise InputError(f"--classes: {seen.clips - len(seen.labels)} of {seen.clips} clips have no class; label them")
    asked = bool(settings["captions"] or not classes) and not settings["classes"]
    labelled = classes and len(seen.labels) == seen.clips
    condition = "captions" if asked and seen.captions else "classes" if labelled else "nothing"
    return {
        "clips": seen.clips,
        "condition": condition,
        "classes": classes,
        "prompts": list(dict.fromkeys(held_out.captions or seen.captions))[:8],
        "tokens": tokens(seen.captions) if condition == "captions" else 0,
        # A clip is two seconds; of shorter ones as long as nine in ten are, of slow ones every frame.
        "fps": round(min(seen.fps, max(FPS, FRAMES / seen.seconds)), 3),
    }


def tokens(captions: list[str]) -> int:
    """Tokens of the longest caption, with the two marks at its ends, at most `MOST_TOKENS`."""
    from open_clip.tokenizer import SimpleTokenizer

    tokenizer = SimpleTokenizer()
    return min(MOST_TOKENS, max(len(tokenizer.encode(caption)) for caption in set(captions)) + 2)


def write_configs(run: Run) -> None:
    """Writes the configs that are not there yet; one that you have changed stays as it is."""
    import torch

    gpu = torch.cuda.is_available()
    for name, about in STAGES.items():
        command = f"cmd-lightning fit -c {run.folder.as_posix()}/{name}.yaml --ckpt_path last"
        write_config(run.folder, name, [f"{name}: {about}", command], stage_changes(run, name, gpu))
    command = f"cmd-lightning test -c {run.folder.as_posix()}/cmd.yaml"
    about = "The three stages together, scored on held-out clips."
    write_config(run.folder, "cmd", [about, command], test_changes(run))


def write_config(folder: Path, name: str, head: list[str], changes: dict[str, Any]) -> None:
    """Writes FOLDER/NAME.yaml, unless it is there: that of `BASE` with `changes`, below comments."""
    from importlib.resources import files

    import yaml

    path = folder / f"{name}.yaml"
    if path.exists():
        return
    text = files("cmd_lightning").joinpath("configs", BASE, f"{name}.yaml").read_text()
    here = json.dumps(folder.as_posix())[1:-1]
    config = merged(json.loads(json.dumps(yaml.safe_load(text)).replace(f"outputs/{BASE}", here)), changes)
    comments = "".join(f"# {line}\n" for line in head)
    path.write_text(comments + yaml.safe_dump(config, sort_keys=False), encoding="utf-8")


def merged(config: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """`config` with `changes` put in, mapping by mapping; another class takes the place of one with its arguments."""
    for key, value in changes.items():
        old = config.get(key)
        if isinstance(value, dict) and isinstance(old, dict):
            own = old.get("class_path")
            value = merged(old, value) if value.get("class_path", own) == own else value
        config[key] = value
    return config


def stage_changes(run: Run, name: str, gpu: bool) -> dict[str, Any]:
    """What differs from `BASE` in the config of a stage."""
    size = run.settings["size"]
    patch = 8 if size >= 64 else 4
    patches = {
        "autoencoder": {"patch_size": patch, "grid": [min(8, size // patch)] * 2},
        "content": {"patch_size": patch // 2},
        "motion": {"content_patch_size": patch},
    }
    model: dict[str, Any] = {"network": {"init_args": patches[name] | (GPU[name] if gpu else {})}}
    if name != "autoencoder":
        model["condition"] = condition(run)
    data = data_of(run) | ({"batch_size": 32, "num_workers": min(8, os.cpu_count() or 1)} if gpu else {})
    trainer = {
        "max_steps": 1_000_000,
        "limit_val_batches": 8,
        "devices": 1,
        "logger": [logger(run, name, "CSVLogger", "log"), logger(run, name, "TensorBoardLogger", "tensorboard")],
    }
    return {
        "seed_everything": run.settings["seed"],
        "model": {"init_args": model},
        "data": {"init_args": data},
        "trainer": trainer | ({"precision": "bf16-mixed"} if gpu else {}),
    }


def logger(run: Run, stage: str, kind: str, folder: str) -> dict[str, Any]:
    """A logger that writes to RUN/STAGE/FOLDER."""
    place = {"save_dir": f"{run.folder.as_posix()}/{stage}", "name": folder}
    return {"class_path": f"lightning.pytorch.loggers.{kind}", "init_args": place}


def condition(run: Run) -> dict[str, Any] | None:
    """The encoder of what the videos are generated from."""
    if run.facts["condition"] == "nothing":
        return None
    if run.facts["condition"] == "classes":
        return {"class_path": "ClassEncoder", "init_args": {"num_classes": len(run.facts["classes"]), "dim": 64}}
    text = {"context_length": run.facts["tokens"], "width": 64, "heads": 2, "layers": 2}
    return {"class_path": "OpenCLIPTextEncoder", "init_args": {"text_cfg": text}}


def data_of(run: Run) -> dict[str, Any]:
    """The clips and how they are read."""
    splits = run.facts["splits"]
    return {
        "train_shards": splits["train"],
        "val_shards": splits["test"],
        "test_shards": splits["test"],
        "num_frames": FRAMES,
        "size": run.settings["size"],
        "stride": None,
        "fps": run.facts["fps"],
    }


def test_changes(run: Run) -> dict[str, Any]:
    """What differs from `BASE` in the config of the three stages together."""
    data = data_of(run) | {"batch_size": 8}
    trainer = {"limit_test_batches": TESTED // 8, "logger": False, "callbacks": [], "devices": 1}
    return {"seed_everything": run.settings["seed"], "data": {"init_args": data}, "trainer": trainer}
