"""What the networks of the paper's text-to-video set-up are trained on, from random latents, for benchmarks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.calls import TOKENS, Call, call_of, image_latents
from cmd_lightning.diffusion import Diffusion
from cmd_lightning.networks import Condition, LatentSpec
from cmd_lightning.zoo import discovery
from cmd_lightning.zoo.autoencoders.cmd import CMDAutoencoder
from cmd_lightning.zoo.content.unet import unet
from cmd_lightning.zoo.motion.dit import MotionDiT

CONFIGS = Path(__file__).parent.parent / "configs"
TEXT = 1024  # width of the states of 2.1's text encoder, and of ViT-H
OBJECTIVE = Diffusion()


def network_of(*configs: str) -> dict[str, Any]:
    """The arguments of the network in configs, the later ones laid over the first."""
    found = [discovery.network_of(CONFIGS / f"{name}.yaml")[1] for name in configs]
    return {key: value for arguments in found for key, value in arguments.items()}


NETWORKS = {
    "autoencoder, measured": network_of("webvid_sd21/autoencoder", "overrides/autoencoder_measured"),
    "autoencoder, paper": network_of("webvid_sd21/autoencoder"),
    "content": network_of("webvid_sd21/content"),
    "motion": network_of("webvid_sd21/motion"),
}
"""Those of configs/webvid_sd21 by name: the autoencoder in both readings, Stable Diffusion 2.1's U-Net, DiT-XL/2."""


@dataclass(frozen=True)
class Task:
    """A network and what it is trained on.

    Attributes:
        call: Of the network, which is on its device, in training.
        latents: Shapes of one sample's clean latents.
        loss: From clean latents to a scalar.
    """

    call: Call
    latents: tuple[tuple[int, ...], ...]
    loss: Callable[..., Tensor]


def task(
    name: str, networks: Mapping[str, Mapping[str, Any]], frames: int, size: Sequence[int], device: torch.device
) -> Task:
    """The training of a network.

    Args:
        name: Which, out of `networks`.
        networks: Their arguments by name; names begin with "autoencoder", "content" or "motion".
        frames: Of a clip.
        size: (H, W) of a clip in pixels.
        device: Where it is trained.
    """
    video, stage = image_latents((3, frames, *size)), name.partition(",")[0]
    first = next(own for own in networks if own.startswith("autoencoder"))
    with torch.device("meta"):
        spec: LatentSpec = CMDAutoencoder(**networks[first]).latent_spec(video)
    with device:
        if stage == "autoencoder":
            network = CMDAutoencoder(**networks[name])
        else:
            network = (unet if stage == "content" else MotionDiT)(spec, TEXT, **networks[name])
    shapes = {"autoencoder": (video,), "content": (spec.content,), "motion": (spec.motion, spec.content)}[stage]
    call = call_of(stage, network.train(), shapes, TEXT)
    return Task(call, shapes, partial(reconstruction_loss if stage == "autoencoder" else denoising_loss, call))


def reconstruction_loss(call: Call, video: Tensor) -> Tensor:
    """As `VideoAutoencoder` has it."""
    network = call.network
    content, motion = network.encode(video)
    network.measure_motion(motion, momentum=0.99)
    return F.mse_loss(network.decode(content, motion).float(), video.float())


def denoising_loss(call: Call, clean: Tensor, *given: Tensor) -> Tensor:
    """As `LatentDiffusion` has it (paper equations 7 and 8); of captions that say nothing."""
    noise = torch.randn_like(clean)
    timestep = OBJECTIVE.timesteps(torch.rand(len(clean), device=clean.device))
    caption = Condition(clean.new_zeros(len(clean), TEXT), clean.new_zeros(len(clean), TOKENS, TEXT))
    noisy = OBJECTIVE.corrupt(clean, noise, timestep)
    prediction = call.function(call.network, noisy, timestep, *given, caption)
    return OBJECTIVE.loss(prediction, clean, noise, timestep).mean()
