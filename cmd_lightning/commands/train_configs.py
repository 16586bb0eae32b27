"""The configs of a `train` run: configs/clips64, adapted to the clips and the hardware."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cmd_lightning.commands.stages import Stage
from cmd_lightning.errors import InputError

if TYPE_CHECKING:
    from cmd_lightning.commands.train import Run

BASE = "clips64"
STAGES = {
    "autoencoder": "clip <-> content frame (its first frame) and motion latent",
    "content": "captions or classes -> content frame",
    "motion": "content frame -> motion latent",
}
"""The stages in order, with what each learns."""

ROUNDS = (("autoencoder",), ("content", "motion"))
"""Stages that may train at the same time."""

SHARES = {"autoencoder": 0.3, "content": 0.7, "motion": 0.7}
"""The share of the training time of each stage, if the stages of a round train at the same time."""

FRAMES, FPS = 16, 8.0
"""Frames of a clip, and frames per second if the clips are long enough."""

TESTED = 64
"""Number of held-out clips to score."""

SAMPLING_STEPS = 50
"""Denoising steps of content frame and motion, in the model and in its test."""

GPU: dict[str, dict[str, Any]] = {
    "autoencoder": {"width": 256, "depth": 4, "heads": 8, "head_dim": 32},
    "content": {"width": 128, "layers": 2, "heads": 8},
    "motion": {"width": 128, "layers": 2},
}
"""Arguments of the larger networks on a GPU."""

MOST_WORDS = 1000
"""Largest vocabulary of captions: the most frequent words."""


def stage_of(folder: Path, name: str) -> Stage:
    """A stage of the run in `folder`."""
    return Stage(name, folder / f"{name}.yaml", folder / name)


def facts_of(splits: Mapping[str, Path], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Facts about the clips of a run.

    Returns:
        "clips", their number; "condition", what videos are generated from: "captions", "classes" or "nothing";
        "classes", their names; "prompts", some captions of held-out clips; "words" of the captions; "fps", the frame
        rate at which clips are read.

    Raises:
        InputError: Training or held-out clips are too short, or lack the requested captions or classes.
    """
    from cmd_lightning.commands.files import warn
    from cmd_lightning.data.index import read_index
    from cmd_lightning.packing.survey import survey

    seen, held_out = survey(str(splits["train"]), "CLIPS"), survey(str(splits["test"]), "CLIPS")
    if seen.frames < FRAMES:
        raise InputError(
            f"CLIPS {settings['clips']}: more than a tenth have fewer than {FRAMES} frames; remove short clips"
        )
    index = read_index(str(splits["train"]))
    classes = index["classes"] or [str(number) for number in range(index["num_classes"])]
    if settings["classes"] and not classes:
        raise InputError("--classes: the clips have no classes; give a table with labels, or a subfolder for each")
    if settings["captions"] and not settings["classes"] and not (seen.captions or classes):
        raise InputError(
            f"--captions {settings['captions']}: no clip has a caption or a label; give a table with a "
            "column caption (or text) or label"
        )
    if settings["classes"] and len(seen.labels) < seen.clips:
        raise InputError(f"--classes: {seen.clips - len(seen.labels)} of {seen.clips} clips have no class; label them")
    asked = bool(settings["captions"] or not classes) and not settings["classes"]
    labelled = classes and len(seen.labels) == seen.clips
    condition = "captions" if asked and seen.captions else "classes" if labelled else "nothing"
    # A clip has two seconds, or if videos are shorter, the length that nine in ten have; slow videos use every frame.
    fps = round(min(seen.fps, max(FPS, FRAMES / seen.seconds)), 3)
    length = f"shorter than {FRAMES} frames at {fps:g} per second"
    if held_out.too_short(FRAMES, fps) == held_out.clips:
        raise InputError(
            f"CLIPS {settings['clips']}: the held-out clips ({held_out.clips}) are {length}; leave short clips out, or "
            "choose others by another --seed"
        )
    if short := seen.too_short(FRAMES, fps) + held_out.too_short(FRAMES, fps):
        warn(f"{short} of {seen.clips + held_out.clips} clips are {length}: they are not used")
    return {
        "clips": seen.clips,
        "condition": condition,
        "classes": classes,
        "prompts": list(dict.fromkeys(" ".join(text.split()) for text in held_out.captions or seen.captions))[:8],
        "words": words(seen.captions) if condition == "captions" else [],
        "fps": fps,
    }


def words(captions: list[str]) -> list[str]:
    """The words of captions, the most frequent first."""
    from cmd_lightning.conditioning import words_of

    counts = Counter(word for caption in captions for word in set(words_of(caption)))
    return [word for word, _ in counts.most_common(MOST_WORDS)]


def write_configs(run: Run) -> None:
    """Writes the configs that do not exist yet; changed ones are kept."""
    import torch

    from cmd_lightning.commands.derived_configs import write_config

    gpu, folder = torch.cuda.is_available(), run.folder
    for name, about in STAGES.items():
        if not (folder / f"{name}.yaml").exists():
            comments = [f"{name}: {about}", f"  cmd-lightning fit -c {folder.as_posix()}/{name}.yaml --ckpt_path last"]
            write_config(folder, BASE, name, comments, stage_changes(run, name, gpu))
    if not (folder / "cmd.yaml").exists():
        command = f"  cmd-lightning test -c {folder.as_posix()}/cmd.yaml"
        write_config(folder, BASE, "cmd", ["The three stages, scored on held-out clips.", command], test_changes(run))


def stage_changes(run: Run, name: str, gpu: bool) -> dict[str, Any]:
    """Changes of `BASE` in the config of a stage."""
    from cmd_lightning.threads import cores

    size = run.settings["size"]
    patch = 8 if size >= 64 else 4
    patches: dict[str, dict[str, Any]] = {
        "autoencoder": {"patch_size": patch, "grid": [min(8, size // patch)] * 2},
        "content": {"patch_size": patch // 2},
        "motion": {"content_patch_size": patch},
    }
    model: dict[str, Any] = {"network": {"init_args": patches[name] | (GPU[name] if gpu else {})}}
    if name != "autoencoder" and run.facts["condition"] != "classes":
        model["condition"] = text_encoder(run.facts["words"]) if run.facts["condition"] == "captions" else None
    data = data_of(run) | ({"batch_size": 32, "num_workers": min(8, cores())} if gpu else {})
    trainer = {
        "max_steps": 1_000_000,
        "limit_val_batches": 8,
        "devices": 1,
        "logger": [logger("CSVLogger", "log"), logger("TensorBoardLogger", "tensorboard")],
    }
    return {
        "seed_everything": run.settings["seed"],
        "model": {"init_args": model},
        "data": {"init_args": data},
        "trainer": trainer | ({"precision": "bf16-mixed"} if gpu else {}),
    }


def logger(kind: str, folder: str) -> dict[str, Any]:
    """A logger that writes to the folder of a stage."""
    return {"class_path": f"lightning.pytorch.loggers.{kind}", "init_args": {"save_dir": None, "name": folder}}


def text_encoder(words: list[str]) -> dict[str, Any]:
    """A vector for each word, which learns much faster from few captions than a text tower."""
    return {"class_path": "PhraseEncoder", "init_args": {"words": words, "dim": 64}}


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
    """Changes of `BASE` in the config of the three stages together."""
    data = data_of(run) | {"batch_size": 8}
    trainer = {"limit_test_batches": TESTED // 8, "logger": False, "callbacks": [], "devices": 1}
    sampling = {"steps": SAMPLING_STEPS}
    return {
        "seed_everything": run.settings["seed"],
        "model": {"init_args": sampling},
        "data": {"init_args": data},
        "trainer": trainer,
    }
