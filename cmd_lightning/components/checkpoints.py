"""Checkpoints that describe themselves: parts by class and arguments, so that a path is all a later stage needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cmd_lightning.errors import InputError
from cmd_lightning.latent_space import LatentSpace, Pixels
from cmd_lightning.networks.classes import build, describe
from cmd_lightning.networks.lora import LoRA, fold, public
from cmd_lightning.stable_diffusion import StableDiffusion

KEY = "cmd"
"""The entry of a checkpoint with the description: plain data, readable with `weights_only=True`."""


@dataclass
class Stage:
    """A trained stage, as read from its checkpoint.

    Args:
        name: "autoencoder", "content" or "motion".
        latent_space: The space that it works in, opened.
        parts: The networks and schedulers by attribute name, averaged weights where there are some, in eval mode.
        video_shape: `(C, T, H, W)` of the videos that it was trained on.
        fps: Frames a second of these videos.
        trained_on: Fingerprint of the autoencoder whose latents it learned; None for an autoencoder.
        adapters: What was trained of the network in the public layout of LoRA; empty where all of it was.
    """

    name: str
    latent_space: LatentSpace
    parts: dict[str, Any]
    video_shape: tuple[int, int, int, int]
    fps: float
    trained_on: str | None
    adapters: dict[str, Tensor]


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
    parts, adapters = {}, {}
    with torch.device("cpu"):  # also where the caller builds its own networks on the meta device
        frozen = {name: open_frozen(name, kept, f"{option} {path}") for name, kept in about.get("frozen", {}).items()}
        for name, description in about["parts"].items():
            if name in frozen:
                parts[name] = frozen[name]
                continue
            part = build(description)
            if isinstance(part, nn.Module):
                prefix = name + "."
                own = {k[len(prefix) :]: v for k, v in weights.items() if k.startswith(prefix)}
                if name == "network" and (adapted := about.get("lora")):
                    StableDiffusion(**adapted["base"]).load_unet(part)
                    fold(part, own, lora := LoRA(**adapted["lora"]))
                    adapters = public(own, lora)
                else:
                    part.load_state_dict(own)
                part.requires_grad_(False).eval()
            parts[name] = part
    space = frozen.get("latent_space") or Pixels()
    return Stage(stage, space, parts, tuple(about["video_shape"]), about["fps"], about.get("trained_on"), adapters)


def describe_frozen(parts: Mapping[str, Any]) -> dict[str, Any]:
    """What `open_frozen` needs of the pretrained ones of `parts`: how they are built, and which weights they have."""
    pretrained = {name: part for name, part in parts.items() if hasattr(part, "open")}
    return {name: {"part": describe(part), "fingerprint": part.fingerprint} for name, part in pretrained.items()}


def open_frozen(name: str, kept: dict[str, Any], where: str) -> Any:
    """A frozen part from where its weights lie.

    Raises:
        InputError: It is not there any more, or is another one now.
    """
    part = build(kept["part"])
    try:
        part.open()
    except InputError as error:
        raise InputError(
            f"{where}: the {name.replace('_', ' ')} that it was trained with is missing; {error}"
        ) from error
    if part.fingerprint != kept["fingerprint"]:
        raise InputError(
            f"{where}: its {name.replace('_', ' ')} has other weights than in training ({part.fingerprint}, not "
            f"{kept['fingerprint']}); put those back: {kept['part']['init_args']}"
        )
    return part


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
