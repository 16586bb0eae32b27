"""The space that the autoencoder works in, behind one encode and decode; pixels so far."""

from __future__ import annotations

import torch
from torch import Tensor


class LatentSpace:
    """Frames as they are. A subclass puts each frame through an image autoencoder."""

    def encode(self, video: Tensor) -> Tensor:
        """A video `(B, 3, T, H, W)` in [-1, 1] to its latents `(B, C, T, h, w)`."""
        return video

    def decode(self, latent: Tensor) -> Tensor:
        """Latents back to a video in [-1, 1]."""
        return latent.clamp(-1, 1)


def to_uint8(video: Tensor) -> Tensor:
    """Values in [-1, 1] to the nearest of 0 to 255."""
    return ((video.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def from_uint8(video: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Values 0 to 255 to [-1, 1]."""
    return video.to(dtype) / 127.5 - 1
