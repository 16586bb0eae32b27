"""The output of `CMDPipeline`, in the formats of diffusers' pipelines."""

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
    """The output of `CMDPipeline`.

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


def check_output(output_type: str, latent: bool = True) -> None:
    """Raises an `InputError` for an unknown output type, and for "latent" if `latent` is false."""
    types = [name for name in get_args(OutputType) if latent or name != "latent"]
    if output_type not in types:
        raise InputError(f"output_type {output_type!r}: choose {', '.join(types)}")


def to_output(video: Tensor, output_type: OutputType) -> Frames:
    """A video `(B, C, T, H, W)` in [-1, 1] in the format `output_type`; see `CMDPipelineOutput`."""
    if output_type == "pil":
        return to_images(to_uint8(video))
    return to_floats((video.float() + 1) / 2, output_type)


def shown(video: Tensor, output_type: OutputType) -> Frames:
    """A video `(B, C, T, H, W)` in [0, 1] in the format `output_type`; whole grey levels stay exact."""
    return to_images((video * 255).round().byte()) if output_type == "pil" else to_floats(video, output_type)


def to_images(video: Tensor) -> list[list[Image]]:
    """A uint8 video `(B, C, T, H, W)` as images, a list for each clip."""
    return [[fromarray(frame) for frame in clip] for clip in video.movedim(1, 4).cpu().numpy()]


def to_floats(video: Tensor, output_type: OutputType) -> Tensor | np.ndarray:
    """A video `(B, C, T, H, W)` as a tensor `(B, T, C, H, W)` for "pt", or an array `(B, T, H, W, C)` for "np"."""
    frames = video.transpose(1, 2)
    return frames if output_type == "pt" else frames.movedim(2, 4).cpu().numpy()
