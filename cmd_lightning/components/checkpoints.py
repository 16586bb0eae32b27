"""Checkpoints that describe themselves: parts by class and arguments, so that a path is all a later stage needs."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cmd_lightning.errors import InputError
from cmd_lightning.networks.classes import build

KEY = "cmd"
"""The entry of a checkpoint with the description: plain data, readable with `weights_only=True`."""


@dataclass
class Stage:
    """A trained stage, as read from its checkpoint.

    Args:
        name: "autoencoder", "content" or "motion".
        parts: The networks and schedulers by attribute name, averaged weights where there are some, in eval mode.
        video_shape: `(C, T, H, W)` of the videos that it was trained on.
        fps: Frames a second of these videos.
        trained_on: Fingerprint of the autoencoder whose latents it learned; None for an autoencoder.
    """

    name: str
    parts: dict[str, Any]
    video_shape: tuple[int, int, int, int]
    fps: float
    trained_on: str | None


def load_stage(path: str | Path, stage: str, option: str) -> Stage:
    """Opens a checkpoint that `fit` wrote for `stage`.

    Args:
        path: The checkpoint's file.
        stage: The stage that is wanted.
        option: Name of the option that gave the path, for errors.

    Raises:
        InputError: There is no such file, it is no checkpoint of this project, or it holds another stage.
    """
    checkpoint = read(path, option, hint := f"give the checkpoint of `fit -c configs/.../{stage}.yaml`")
    about = checkpoint[KEY]
    if about["stage"] != stage:
        raise InputError(f"{option} {path}: this checkpoint holds the {about['stage']} stage, not {stage}; {hint}")
    weights = {**checkpoint["state_dict"], **checkpoint.get("ema", {})}
    parts = {}
    for name, description in about["parts"].items():
        part = build(description)
        if isinstance(part, nn.Module):
            prefix = name + "."
            part.load_state_dict({k[len(prefix) :]: v for k, v in weights.items() if k.startswith(prefix)})
            part.requires_grad_(False).eval()
        parts[name] = part
    return Stage(stage, parts, tuple(about["video_shape"]), about["fps"], about.get("trained_on"))


def stage_of(path: str | Path) -> str:
    """The name of the stage that a checkpoint holds; raises as `load_stage` does."""
    return read(path, "checkpoint", "give one that `fit` wrote")[KEY]["stage"]


def read(path: str | Path, option: str, hint: str) -> dict[str, Any]:
    """A checkpoint of this project, as plain data and tensors; code in the file is refused, not run."""
    if not Path(path).is_file():
        raise InputError(f"{option} {path}: there is no such file; {hint}")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # torch raises many kinds for a damaged or unsafe file
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"{option} {path}: it cannot be read as a checkpoint ({reason[:120]}); {hint}") from error
    if not isinstance(checkpoint, dict) or KEY not in checkpoint:
        raise InputError(f"{option} {path}: this checkpoint was not written by cmd-lightning; {hint}")
    return checkpoint


def fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """The sha256 of names, shapes and values, as 16 hexadecimal digits."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        value = tensor.detach().cpu().float().contiguous()
        digest.update(f"{name}{tuple(value.shape)}".encode())
        digest.update(value.numpy().tobytes())
    return digest.hexdigest()[:16]
