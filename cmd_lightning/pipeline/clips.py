"""Clips as inputs of `CMDPipeline`, in many formats and sizes, and their two latents."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cmd_lightning.errors import InputError, InputWarning
from cmd_lightning.pipeline.images import fit_image, tensors_of
from cmd_lightning.pipeline.latents import Latents

Clip = Any
"""One clip: the path of a video file or of a folder of frames, a list of PIL images, an array `(T, H, W, 3)` or a
tensor `(T, 3, H, W)`; or one image, see `Image`, for a clip that stands still. Arrays and tensors have floats in [0, 1]
or uint8."""


class Clips(Latents):
    """The part of `CMDPipeline` that reads clips."""

    def encode_clips(self, clips: Clip | Sequence[Clip], stride: int = 1) -> tuple[Tensor, Tensor]:
        """The content frames `(B, C, H, W)` and motion latents `(B, D, T, S)` of clips or images.

        Args:
            clips: A clip or several; they are resized and cropped to the model's size, and their first frames are used.
            stride: Use every `stride`-th frame.

        Raises:
            InputError: A clip cannot be read, or has too few frames.

        Warns:
            InputWarning: A clip is resized or shortened.
        """
        return self._latents(clips, "clips", stride)

    def _latents(self, clips: Clip | Sequence[Clip], option: str, stride: int = 1) -> tuple[Tensor, Tensor]:
        """As `encode_clips`, for the clips of the user's argument `option`."""
        video, notes = self._whole(clips, option, stride)
        for note in dict.fromkeys(note for own in notes for note in own):
            warnings.warn(note, InputWarning, stacklevel=3)
        return self.encode(video * 2 - 1)

    def _whole(self, clips: Clip | Sequence[Clip], option: str, stride: int = 1) -> tuple[Tensor, list[list[str]]]:
        """Clips of the model's length and size, `(B, 3, T, H, W)` in [0, 1], and notes on how each was changed."""
        frames = self.config.video_shape[1]
        shortened = [of_length(clip[:, ::stride], frames, option) for clip in clips_of(clips, option)]
        video, notes = fit_clips([clip for clip, _ in shortened], self.size, option)
        return video, [[*done, *own] for done, (_, own) in zip(notes, shortened, strict=True)]


def of_length(clip: Tensor, frames: int, option: str) -> tuple[Tensor, list[str]]:
    """The first `frames` frames of a clip `(3, T, H, W)`, or an image repeated; and a note if frames are left over.

    Raises:
        InputError: It is not an image, and has too few frames.
    """
    given = clip.shape[1]
    if given == 1:
        return clip.expand(-1, frames, -1, -1), []
    if given < frames:
        raise InputError(f"`{option}`: a clip of {given} frames, the model needs {frames}; give a longer clip")
    return clip[:, :frames], [f"clip of {given} frames: the first {frames} are used"] if given > frames else []


def fit_clips(clips: Sequence[Tensor], size: tuple[int, int], option: str) -> tuple[Tensor, list[list[str]]]:
    """Clips `(3, T, H, W)` as floats `(B, 3, T, *size)` in [0, 1], by `fit_image`, and notes on how each was changed.

    Raises:
        InputError: They have different numbers of frames, or are not RGB.
    """
    if len(lengths := {clip.shape[1] for clip in clips}) > 1:
        raise InputError(f"`{option}`: clips of {min(lengths)} and {max(lengths)} frames; give clips of one length")
    videos, notes = [], []
    for clip in clips:
        fitted, texts = zip(*(fit_image(frame, size, option) for frame in clip.unbind(1)), strict=True)
        videos.append(torch.stack(fitted, dim=1))
        notes.append([text.replace("image of", "clip of") for text in texts[0]])
    return torch.stack(videos), notes


def clips_of(given: Clip | Sequence[Clip], option: str) -> list[Tensor]:
    """Clips as tensors `(3, T, H, W)`, with their own sizes and values.

    Raises:
        InputError: The list is empty, or one is not a clip; `option` is the name of the user's argument.
    """
    if isinstance(given, np.ndarray | Tensor):
        if not 3 <= given.ndim <= 5:
            raise InputError(
                f"`{option}`: shape {tuple(given.shape)}; give arrays (T, H, W, 3) or tensors (T, 3, H, W)"
            )
        if given.ndim == 5:
            return [clip for one in given for clip in clips_of(one, option)]
        return [torch.stack(tensors_of(given, option), dim=1)]
    if isinstance(given, str | Path) and not still(given):
        from cmd_lightning.video_io import read_video

        return [read_video(given)]
    if not isinstance(given, Sequence) or isinstance(given, str):
        return [tensors_of(given, option)[0][:, None]]
    if not given:
        raise InputError(f"`{option}`: an empty list; give at least one clip")
    if all(not isinstance(one, str | Path | Sequence) and getattr(one, "ndim", 3) == 3 for one in given):  # its frames
        frames = [tensors_of(one, option)[0] for one in given]
        if len({frame.shape for frame in frames}) > 1:
            raise InputError(f"`{option}`: a list of images of several sizes; give the frames of a clip in one size")
        return [torch.stack(frames, dim=1)]
    return [clip for one in given for clip in clips_of(one, option)]


def still(path: str | Path) -> bool:
    """Whether a path or URL is that of an image which does not move."""
    from PIL import Image, UnidentifiedImageError

    if str(path).startswith(("http://", "https://")):
        return True
    if not Path(path).is_file():
        return False
    try:
        with Image.open(path) as image:
            return getattr(image, "n_frames", 1) == 1
    except (UnidentifiedImageError, OSError):
        return False


def check_single(call: Mapping[str, Any]) -> None:
    """Raises an `InputError` if more than one video of each clip is asked for, where one is made of each."""
    if (copies := call.get("num_videos_per_prompt", 1)) != 1:
        raise InputError(f"`num_videos_per_prompt` {copies}: one video is made of each clip; give clips several times")
