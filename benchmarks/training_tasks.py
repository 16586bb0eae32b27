"""What the networks of the paper's text-to-video set-up are trained on, from random latents, for benchmarks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cmd_lightning.diffusion import Diffusion
from cmd_lightning.networks import Condition, LatentSpec
from cmd_lightning.networks.content_unet import predict_content
from cmd_lightning.zoo.autoencoders.cmd import CMDAutoencoder
from cmd_lightning.zoo.content.unet import unet
from cmd_lightning.zoo.motion.dit import MotionDiT

NETWORKS: dict[str, dict[str, Any]] = {
    "autoencoder, measured": {"depth": 8, "heads": 8, "head_dim": 48, "qkv_bias": True},
    "autoencoder, paper": {"depth": 12, "heads": 8, "head_dim": 64},
    "content": {"attention_head_dim": [5, 10, 20, 20], "use_linear_projection": True},
    "motion": {"width": 1152, "depth": 28, "heads": 16, "content_patch_size": 8},
}
"""Those of configs/webvid_sd21 by name: the autoencoder in both readings, Stable Diffusion 2.1's U-Net, DiT-XL/2."""

FACTOR, CHANNELS = 8, 4  # of Stable Diffusion's VAE
TEXT, TOKENS = 1024, 77  # the states of 2.1's text encoder, and of ViT-H
OBJECTIVE = Diffusion()


@dataclass(frozen=True)
class Task:
    """A network and what it is trained on.

    Attributes:
        network: on its device, in training.
        latents: shapes of one sample's clean latents.
        loss: from the network and clean latents to a scalar.
        forward: one call of the network for such latents.
    """

    network: nn.Module
    latents: tuple[tuple[int, ...], ...]
    loss: Callable[..., Tensor]
    forward: Callable[..., Tensor]


def task(
    name: str, networks: Mapping[str, Mapping[str, Any]], frames: int, size: tuple[int, int], device: torch.device
) -> Task:
    """The training of a network.

    Args:
        name: which, out of `networks`.
        networks: their arguments by name; names begin with "autoencoder", "content" or "motion".
        frames: of a clip.
        size: (H, W) of a clip in pixels.
        device: where it is trained.
    """
    video = (CHANNELS, frames, size[0] // FACTOR, size[1] // FACTOR)
    kind = name.partition(",")[0]
    arguments = dict(networks[name])
    if kind == "autoencoder":
        with device:
            network = CMDAutoencoder(channels=CHANNELS, output="linear", **arguments)
        return Task(network.train(), (video,), reconstruction_loss, lambda network, latent: network(latent))
    spec = latents(networks, video)
    with device:
        network = (unet if kind == "content" else MotionDiT)(spec, TEXT, **arguments).train()
    if kind == "content":
        return Task(network, (spec.content,), denoising_loss(predict_frame), lambda *given: predict_frame(*given, None))
    return Task(
        network,
        (spec.motion, spec.content),
        denoising_loss(predict_motion),
        lambda *given: predict_motion(*given, None),
    )


def latents(networks: Mapping[str, Mapping[str, Any]], video: tuple[int, int, int, int]) -> LatentSpec:
    """What the first autoencoder of `networks` makes of a video of that shape."""
    arguments = next(own for name, own in networks.items() if name.startswith("autoencoder"))
    with torch.device("meta"):
        return CMDAutoencoder(channels=CHANNELS, **arguments).latent_spec(video)


def reconstruction_loss(network: nn.Module, video: Tensor) -> Tensor:
    """As `VideoAutoencoder` has it."""
    content, motion = network.encode(video)
    network.measure_motion(motion, momentum=0.99)
    return F.mse_loss(network.decode(content, motion).float(), video.float())


def denoising_loss(predict: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """As `LatentDiffusion` has it (paper equations 7 and 8), of whatever `predict` says of a noisy latent."""

    def loss(network: nn.Module, clean: Tensor, *given: Tensor) -> Tensor:
        noise = torch.randn_like(clean)
        timestep = OBJECTIVE.timesteps(torch.rand(len(clean), device=clean.device))
        prediction = predict(network, OBJECTIVE.corrupt(clean, noise, timestep), *given, timestep)
        return OBJECTIVE.loss(prediction, clean, noise, timestep).mean()

    return loss


def predict_frame(network: nn.Module, noisy: Tensor, timestep: Tensor | None) -> Tensor:
    """What a content model says of noisy content frames."""
    return predict_content(network, noisy, _or_first(timestep, noisy), _nothing(noisy))


def predict_motion(network: nn.Module, noisy: Tensor, content: Tensor, timestep: Tensor | None) -> Tensor:
    """What a motion model says of noisy motion latents, given content frames."""
    return network(noisy, _or_first(timestep, noisy), content, _nothing(noisy))


def _or_first(timestep: Tensor | None, noisy: Tensor) -> Tensor:
    return noisy.new_zeros(len(noisy), dtype=torch.long) if timestep is None else timestep


def _nothing(noisy: Tensor) -> Condition:
    return Condition(noisy.new_zeros(len(noisy), TEXT), noisy.new_zeros(len(noisy), TOKENS, TEXT))
