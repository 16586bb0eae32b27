"""What `CMDPipeline` returns, in the forms that diffusers' pipelines offer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from diffusers.utils import BaseOutput
from PIL.Image import Image, fromarray
from torch import Tensor

from cmd_lightning.errors import InputError
from cmd_lightning.latent_space import to_uint8


@dataclass
class CMDPipelineOutput(BaseOutput):
    """What `CMDPipeline` returns.

    Args:
        frames: The videos: a uint8 tensor `(B, C, T, H, W)` for "pt", an array `(B, T, H, W, C)` of floats in [0, 1]
            for "np", a list of lists of pictures for "pil".
        content: The content frames, `(B, C, H, W)`, in the autoencoder's space.
        seeds: The seed of each video.
        warnings: For each video, sentences on a truncated prompt, unknown words or a resized image; usually empty.
    """

    frames: Tensor | np.ndarray | list[list[Image]]
    content: Tensor
    seeds: list[int]
    warnings: list[list[str]]


def to_output(video: Tensor, output_type: str) -> Tensor | np.ndarray | list[list[Image]]:
    """A video `(B, C, T, H, W)` in [-1, 1] as `output_type` asks; see `CMDPipelineOutput`."""
    if output_type == "np":
        return ((video.float() + 1) / 2).permute(0, 2, 3, 4, 1).cpu().numpy()
    pixels = to_uint8(video)
    if output_type == "pt":
        return pixels
    if output_type == "pil":
        return [[fromarray(frame) for frame in clip.permute(1, 2, 3, 0).cpu().numpy()] for clip in pixels]
    raise InputError(f"output_type {output_type!r}: choose pt, np or pil")
