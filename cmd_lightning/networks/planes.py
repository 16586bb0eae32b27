"""The latents of an autoencoder as one: content plane and motion points side by side, for models of both at once."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from cmd_lightning.networks.contracts import LatentSpec


def pack(content: Tensor, motion: Tensor) -> Tensor:
    """Content frames `(B, C, H, W)` and motion latents `(B, C, T, S)` as `(B, C, H * W + T * S)`, row by row."""
    return torch.cat([content.flatten(2), motion.flatten(2)], dim=2)


def shape(spec: LatentSpec) -> tuple[int, int]:
    """The shape `(C, H * W + T * S)` of the packed latents of one video."""
    return spec.content[0], math.prod(spec.content[1:]) + math.prod(spec.motion[1:])


def unpack(planes: Tensor, spec: LatentSpec) -> tuple[Tensor, Tensor]:
    """Undoes `pack`, for the latents of `spec`."""
    points = math.prod(spec.content[1:])
    content, motion = planes.split([points, planes.shape[2] - points], dim=2)
    return content.unflatten(2, spec.content[1:]), motion.unflatten(2, spec.motion[1:])
