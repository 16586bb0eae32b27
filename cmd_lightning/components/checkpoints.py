"""Self-describing checkpoints: parts by class and arguments, so that a later stage needs only their path."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from diffusers.utils import logging
from torch import Tensor, nn

from cmd_lightning.errors import InputError
from cmd_lightning.latent_space import LatentSpace, Pixels
from cmd_lightning.networks.classes import build
from cmd_lightning.networks.lora import LoRA, fold, public
from cmd_lightning.pipeline import CMDPipeline
from cmd_lightning.pretrained_text import StableDiffusionText
from cmd_lightning.provenance import fingerprint
from cmd_lightning.stable_diffusion import StableDiffusion
from cmd_lightning.zoo import model_folder, models

KEY = "cmd"
"""The entry of a checkpoint with the description: plain data, readable with `weights_only=True`."""

PARTS: dict[str, dict[str, str]] = {
    "autoencoder": {"network": "autoencoder"},
    "content": {"network": "unet", "scheduler": "scheduler", "condition_encoder": "text_encoder"},
    "motion": {
        "network": "motion_model",
        "scheduler": "motion_scheduler",
        "condition_encoder": "motion_text_encoder",
    },
}
"""For each stage, the names of its parts in `Stage`, with their names in a pipeline."""

CARRIED = "carried"
"""The entry of a checkpoint with untrained weights of other parts, so that it opens without other files."""


@dataclass
class Stage:
    """A trained stage, as read from its checkpoint.

    Args:
        name: "autoencoder", "content", "motion" or "video".
        parts: Networks, schedulers and the latent space by attribute name; averaged weights if it has them, in
            eval mode.
        video_shape: `(C, T, H, W)` of the videos that it was trained on.
        fps: Frames per second of these videos.
        trained_on: Fingerprint of the autoencoder whose latents it learned; None if it learned none.
        adapters: The trained LoRA weights in their public layout; empty if all weights were trained.
        averaged: Whether the checkpoint has averaged weights; then `parts` have them.
        arguments: Other arguments of the component that was trained, as plain data.
        sampling: Default `steps` and `guidance` of sampling, if the checkpoint has them.
    """

    name: str
    parts: dict[str, Any]
    video_shape: tuple[int, int, int, int]
    fps: float
    trained_on: str | None
    adapters: dict[str, Tensor]
    averaged: bool
    arguments: dict[str, Any] = field(default_factory=dict)
    sampling: dict[str, float] = field(default_factory=dict)

    @property
    def latent_space(self) -> LatentSpace:
        """The space of the autoencoder's inputs."""
        return self.parts.get("latent_space") or Pixels()


def load_stage(path: str | Path, stage: str, option: str) -> Stage:
    """Opens a checkpoint that `fit` wrote for `stage`, or takes that stage from a model.

    Args:
        path: The checkpoint; or a folder that `export` wrote, or a name of the zoo.
        stage: "autoencoder", "content", "motion" or "video".
        option: The user's option for the path, for errors.

    Raises:
        InputError: There is no such file or model, it is not of this project, or it has another stage.
    """
    if is_model(path) and stage in PARTS:
        return stage_of_model(path, stage, option)
    config = "configs/baselines/..." if stage == "video" else f"configs/.../{stage}.yaml"
    hint = f"give the checkpoint of `fit -c {config}`"
    if stage in PARTS:
        hint += f", a folder that `export` wrote, or a name of the zoo ({', '.join(models())})"
    checkpoint = read(path, option, hint)
    about = checkpoint[KEY]
    if about["stage"] != stage:
        raise InputError(f"{option} {path}: this checkpoint holds the {about['stage']} stage, not {stage}; {hint}")
    weights = {**checkpoint["state_dict"], **checkpoint.get("ema", {}), **checkpoint.get(CARRIED, {})}
    parts, adapters = {}, {}
    with torch.device("cpu"):  # even if the caller builds its own networks on the meta device
        for name, description in about["parts"].items():
            part = parts[name] = build(description)
            own = {k[len(name) + 1 :]: v for k, v in weights.items() if k.startswith(f"{name}.")}
            if name in about.get("frozen", {}):
                open_frozen(part, name, about["frozen"][name], f"{option} {path}")
            elif name == "network" and "lora" in about:
                adapters = adapt(part, own, about["lora"], f"{option} {path}")
            elif isinstance(part, nn.Module):
                part.load_state_dict(own)
            if isinstance(part, nn.Module):
                part.requires_grad_(False).eval()
    shape, averaged = tuple(about["video_shape"]), bool(checkpoint.get("ema"))
    arguments = about.get("arguments", {})
    trained_on, sampling = about.get("trained_on"), about.get("sampling", {})
    return Stage(stage, parts, shape, about["fps"], trained_on, adapters, averaged, arguments, sampling)


def is_model(path: str | Path) -> bool:
    """Whether `path` is a model folder or a name of the zoo, and not a checkpoint."""
    return Path(path, "model_index.json").is_file() or str(path) in models()


def stage_of_model(model: str | Path, stage: str, option: str) -> Stage:
    """A stage of a model folder or of a model of the zoo."""
    names = PARTS[stage]
    others = {part for name, parts in PARTS.items() for part in parts.values() if name not in ("autoencoder", stage)}
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # for reading the parts, which takes a moment
    try:
        pipeline = CMDPipeline.from_pretrained(model, **dict.fromkeys(others))
    except InputError as error:
        raise InputError(f"{option} {model}: {error}") from error
    finally:
        if shown:
            logging.enable_progress_bar()
    parts: dict[str, Any] = {name: getattr(pipeline, part) for name, part in names.items()}
    if "condition_encoder" in parts:
        encoder = parts["condition_encoder"] = pipeline.encoders[stage]
        if isinstance(encoder, StableDiffusionText):  # checkpoints store its folder instead of its weights
            base = str(model_folder(model))
            parts["condition_encoder"] = StableDiffusionText.of(encoder.text_model, encoder.tokenizer, base)
    if parts["network"] is None:
        raise InputError(f"{option} {model}: this model has no {stage} stage; give another, or a checkpoint")
    config = pipeline.config
    sampling = {option: config[option][stage] for option in ("steps", "guidance") if stage in (config[option] or {})}
    shared = pipeline.autoencoder.content_source if stage == "content" else None
    trained_on = shared or fingerprint(pipeline.autoencoder.state_dict())
    for part in parts.values():
        if isinstance(part, nn.Module):
            part.requires_grad_(False).eval()
    return Stage(
        stage,
        {name: part for name, part in parts.items() if part is not None} | {"latent_space": pipeline.latent_space},
        tuple(config.video_shape),
        config.fps,
        None if stage == "autoencoder" else trained_on,
        {},
        bool((config.averaged_weights or {}).get(stage)),
        {} if stage == "autoencoder" else {"autoencoder": str(model)},
        sampling,
    )


def located(description: dict[str, Any]) -> dict[str, Any]:
    """The description of a frozen part, with the paths of its weights made absolute."""
    arguments = dict(description["init_args"])
    for name in {"base", "vae", "weights"} & arguments.keys():  # each a folder, a file or a hub id
        if isinstance(arguments[name], str) and Path(arguments[name]).exists():
            arguments[name] = str(Path(arguments[name]).resolve())
    return description | {"init_args": arguments}


def open_frozen(part: Any, name: str, fingerprint: str, where: str) -> None:
    """Opens a part whose weights a checkpoint leaves out; they must be unchanged, in the same place as in training."""
    what = name.replace("_", " ")
    try:
        part.open()
    except InputError as error:
        raise InputError(
            f"{where}: the {what} that it was trained with is missing, put it, or a link to it, where it was; {error}"
        ) from error
    check_weights(f"{where}: its {what}", part.fingerprint, fingerprint)


def adapt(network: nn.Module, weights: Mapping[str, Tensor], about: dict[str, Any], where: str) -> dict[str, Tensor]:
    """Merges trained adapters into a network of their base's architecture, and returns them in their public layout."""
    StableDiffusion(**about["base"], option=f"{where}: its base").load_unet(network)
    check_weights(f"{where}: its base", fingerprint(network.state_dict()), about["fingerprint"])
    lora = LoRA(**about["lora"])
    fold(network, weights, lora)
    return public(weights, lora)


def check_weights(what: str, own: str, wanted: str) -> None:
    """Rejects weights that differ from those of the training, by their fingerprints."""
    if own != wanted:
        raise InputError(f"{what} has other weights than in training ({own}, not {wanted}); put those back")


def stage_of(path: str | Path) -> str:
    """The name of the stage that a checkpoint holds; raises as `load_stage` does."""
    return read(path, "checkpoint", "give one that `fit` wrote")[KEY]["stage"]


def read(path: str | Path, option: str, hint: str) -> dict[str, Any]:
    """A checkpoint of this project, as plain data and tensors; a file with code is rejected, and no code is run."""
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
