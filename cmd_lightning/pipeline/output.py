"""What `CMDPipeline` returns, in the forms that diffusers' pipelines offer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from diffusers.utils import BaseOutput
from PIL.Image import Image, fromarray
from torch import Tensor

from cmd_lightning.errors import InputError
from cmd_lightning.latent_space import to_uint8

OutputType = Literal["pil", "np", "pt", "latent"]
Frames = Tensor | np.ndarray | list[list[Image]]


@dataclass
class CMDPipelineOutput(BaseOutput):
    """What `CMDPipeline` returns.

    Args:
        frames: The videos: for "pil" a list of frames for each, for "np" an array `(B, T, H, W, C)` and for "pt" a
            tensor `(B, T, C, H, W)` of floats in [0, 1]; for "latent" the motion latents `(B, D, T, S)`, which
            `CMDPipeline.decode` turns into videos, given `content`.
        content: The content frames, `(B, C, H, W)`, in the autoencoder's space.
        seeds: The seed of each video.
        warnings: For each video, sentences on a truncated prompt, unknown words or a resized image; usually empty.
    """

    frames: Frames
    content: Tensor
    seeds: list[int]
    warnings: list[list[str]]


def check_output(output_type: str) -> None:
    """Raises an `InputError` for an unknown output type."""
    if output_type not in get_args(OutputType):
        raise InputError(f"output_type {output_type!r}: choose {', '.join(get_args(OutputType))}")


def to_output(video: Tensor, output_type: OutputType) -> Frames:
    """A video `(B, C, T, H, W)` in [-1, 1] as `output_type` asks; see `CMDPipelineOutput`."""
    frames = video.transpose(1, 2)  # (B, T, C, H, W)
    if output_type == "pil":
        return [[fromarray(frame) for frame in clip] for clip in to_uint8(frames).movedim(2, 4).cpu().numpy()]
    floats = (frames.float() + 1) / 2
    return floats if output_type == "pt" else floats.movedim(2, 4).cpu().numpy()
