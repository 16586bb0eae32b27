"""The networks of the paper's text-to-video set-up, and one call of each on a clip, with tensors without values."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cmd_lightning.networks import Condition, MotionModel
from cmd_lightning.networks.counting import Count, count
from cmd_lightning.networks.stock import predict_content
from cmd_lightning.zoo import discovery

CONFIGS = Path(__file__).parent.parent / "configs"
FACTOR, CHANNELS = 8, 4
"""Pixels on the side of a latent point of Stable Diffusion's VAE, and the channels of one."""
TOKENS = 77
"""Of a caption, in CLIP's text encoders."""

Shape = tuple[int, int, int, int]


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
"""Arguments by name: the autoencoder in both readings, Stable Diffusion 2.1's U-Net, DiT-XL/2."""


def image_latents(video: Shape) -> Shape:
    """The shape of Stable Diffusion's latents of the frames of a video `(3, T, H, W)`."""
    _, frames, height, width = video
    return CHANNELS, frames, height // FACTOR, width // FACTOR


@dataclass(frozen=True)
class Call:
    """A network and one call of it: `function(network, *inputs)`."""

    network: nn.Module
    inputs: tuple[Tensor | Condition, ...]
    function: Callable[..., Any] = operator.call

    def count(self) -> Count:
        """What the call costs."""
        return count(self.network, *self.inputs, call=self.function)

    def inputs_of(self, make: Callable[[Tensor], Tensor]) -> list[Tensor | Condition]:
        """The inputs with `make` applied to every tensor."""
        return [given.map(make) if isinstance(given, Condition) else make(given) for given in self.inputs]


def call_of(
    stage: str, network: nn.Module, latents: Sequence[tuple[int, ...]], width: int = 0, tokens: int = TOKENS
) -> Call:
    """The call of a network of a stage, or of a "denoiser" of whole videos, on one clip; its inputs are on meta.

    `latents` are shapes of one sample: of the video; of the content frame; of motion latent and content frame. `width`
    is that of the states of a caption, which the autoencoder does not take.
    """
    with torch.device("meta"):
        noisy, *given = (torch.empty(1, *shape) for shape in latents)
        if stage == "autoencoder":
            return Call(network, (noisy,))
        caption = Condition(torch.empty(1, width), torch.empty(1, tokens, width))
        inputs = noisy, torch.zeros(1, dtype=torch.long), *given, caption
    functions = {"content": predict_content, "motion": MotionModel.predict}
    return Call(network, inputs, functions.get(stage, operator.call))
