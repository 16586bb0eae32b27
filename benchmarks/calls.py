"""A call of a stage's network on one clip: what it is given, of tensors that have shapes and no values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from cmd_lightning.networks import Condition
from cmd_lightning.networks.content_unet import predict_content

FACTOR, CHANNELS = 8, 4
"""Pixels on the side of a latent point of Stable Diffusion's VAE, and the channels of one."""
TOKENS = 77
"""Of a caption, in CLIP's text encoders."""


@dataclass(frozen=True)
class Call:
    """A network and one call of it.

    Attributes:
        network: as the config has it.
        inputs: of the call.
        function: calls its first argument, the network, on the inputs.
    """

    network: nn.Module
    inputs: tuple[Tensor, ...]
    function: Callable[..., Any]


def call_of(
    stage: str, network: nn.Module, latents: Sequence[tuple[int, ...]], width: int = 0, tokens: int = TOKENS
) -> Call:
    """The call of a network on one clip, its inputs on the meta device.

    Args:
        stage: "autoencoder", "content", "motion", or "denoiser" of whole videos.
        network: of that stage, on whatever device.
        latents: shapes of one sample: of the video; of the content frame; of motion latent and content frame.
        width: of a caption's states, for all but the first.
        tokens: of a caption.
    """
    with torch.device("meta"):
        x, *given = (torch.empty(1, *shape) for shape in latents)
        if stage == "autoencoder":
            return Call(network, (x,), lambda network, video: network(video))
        timestep = torch.zeros(1, dtype=torch.long)
        caption = torch.empty(1, width), torch.empty(1, tokens, width)
    return Call(network, (x, timestep, *given, *caption), PREDICT[stage])


def predict_frame(network: nn.Module, noisy: Tensor, timestep: Tensor, pooled: Tensor, tokens: Tensor) -> Tensor:
    """What a content model says of noisy content frames and captions."""
    return predict_content(network, noisy, timestep, Condition(pooled, tokens))


def predict_motion(
    network: nn.Module, noisy: Tensor, timestep: Tensor, content: Tensor, pooled: Tensor, tokens: Tensor
) -> Tensor:
    """What a motion model says of noisy motion latents, given content frames and captions."""
    return network(noisy, timestep, content, Condition(pooled, tokens))


def predict_video(network: nn.Module, noisy: Tensor, timestep: Tensor, pooled: Tensor, tokens: Tensor) -> Tensor:
    """What a video denoiser says of noisy videos, or of noisy planes of such, and captions."""
    return network(noisy, timestep, Condition(pooled, tokens))


PREDICT = {"content": predict_frame, "motion": predict_motion, "denoiser": predict_video}
"""How the denoiser of a stage is called."""
