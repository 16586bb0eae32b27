"""From the members of a sample to a clip: choose frames, decode them, resize, crop, caption, label."""

import json
import random
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cmd_lightning.errors import InputError
from cmd_lightning.video_io import VIDEO_SUFFIXES, VideoReader


class BadSample(Exception):
    """A sample that cannot be used; its text is the reason it is counted under."""


@dataclass(frozen=True)
class ClipLoader:
    """Turns the members of a sample into a clip.

    Attributes:
        num_frames: frames of a clip.
        size: (H, W) in pixels.
        fps: frames per second to sample at; a slower source repeats frames.
        stride: instead, take every stride-th frame of the source.
        random_start: draw where the clip begins; otherwise at the first frame.
        random_crop: draw where it is cropped; otherwise in the middle.
    """

    num_frames: int
    size: tuple[int, int]
    fps: float | None = None
    stride: int | None = None
    random_start: bool = False
    random_crop: bool = False

    def __call__(self, sample: dict[str, Any], draw: int) -> dict[str, Any]:
        """Decode a sample.

        Args:
            sample: the members by suffix, and "__key__".
            draw: number that all random choices follow from.

        Returns:
            video uint8 (C, T, H, W), caption, label (-1: none), key, fps.

        Raises:
            BadSample: with the reason.
        """
        chance = random.Random(draw)
        facts = read_facts(sample)
        label = read_label(facts)
        data = video_of(sample)
        try:
            reader = VideoReader(data)
            step = self.stride or reader.info.fps / self.fps
            indices = choose_frames(reader.info.frames, self.num_frames, step, chance if self.random_start else None)
            video = reader.read(indices)
        except InputError as error:
            raise BadSample("unreadable video") from error
        return {
            "video": resize_and_crop(video, self.size, chance if self.random_crop else None),
            "caption": _caption(sample, facts),
            "label": label,
            "key": sample["__key__"],
            "fps": reader.info.fps / step,
        }


def choose_frames(available: int, num_frames: int, step: float, chance: random.Random | None) -> list[int]:
    """Numbers of `num_frames` frames, `step` source frames apart, rounded.

    Args:
        available: frames of the source.
        num_frames: frames wanted.
        step: distance in source frames; need not be whole.
        chance: draws the first frame; None begins at frame 0.

    Raises:
        BadSample: the source is too short.
    """
    offsets = [int(index * step + 0.5) for index in range(num_frames)]
    room = available - 1 - offsets[-1]
    if room < 0:
        raise BadSample("too short")
    start = chance.randint(0, room) if chance else 0
    return [start + offset for offset in offsets]


def resize_and_crop(video: Tensor, size: tuple[int, int], chance: random.Random | None = None) -> Tensor:
    """Scale a clip until it just covers the size, with antialiasing, then crop what is over.

    Args:
        video: (C, T, H, W), uint8 or floats in [0, 1].
        size: (H, W) wanted, in pixels.
        chance: draws where to crop; None crops in the middle.

    Returns:
        (C, T, *size) of the same type; uint8 is rounded, floats are not.
    """
    height, width = size
    scale = max(height / video.shape[2], width / video.shape[3])
    covering = max(height, round(video.shape[2] * scale)), max(width, round(video.shape[3] * scale))
    if covering != tuple(video.shape[2:]):
        frames = video.transpose(0, 1).float()
        frames = torch.nn.functional.interpolate(frames, covering, mode="bilinear", antialias=True)
        frames = frames.clamp_(0, 1) if video.is_floating_point() else frames.round_().clamp_(0, 255)
        video = frames.to(video.dtype).transpose(0, 1)
    spare = covering[0] - height, covering[1] - width
    top, left = [chance.randint(0, room) if chance else room // 2 for room in spare]
    return video[:, :, top : top + height, left : left + width].contiguous()


def video_of(sample: dict[str, Any]) -> bytes:
    """The bytes of a sample's video file.

    Raises:
        BadSample: it has none.
    """
    for suffix in VIDEO_SUFFIXES:
        if suffix in sample:
            return sample[suffix]
    raise BadSample("no video")


def read_facts(sample: dict[str, Any]) -> dict[str, Any]:
    """What the .json of a sample says; nothing where there is none.

    Raises:
        BadSample: it is not JSON.
    """
    try:
        facts = json.loads(sample.get("json", b"{}"))
    except ValueError as error:
        raise BadSample("unreadable json") from error
    return facts if isinstance(facts, dict) else {}


def read_label(facts: dict[str, Any]) -> int:
    """The class that the facts name by a whole number; -1 where they name none.

    Raises:
        BadSample: it is true or false, below -1, or too large for an int64.
    """
    label = facts.get("label")
    if not isinstance(label, int):
        return -1
    if isinstance(label, bool) or not -1 <= label < 2**63:
        raise BadSample("bad label")
    return label


def _caption(sample: dict[str, Any], facts: dict[str, Any]) -> str:
    if "txt" in sample:
        return sample["txt"].decode("utf-8", "replace").strip()
    return str(facts.get("caption") or "")
