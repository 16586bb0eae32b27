"""From the members of a sample to a clip: choose frames, decode them, resize, crop, caption, label."""

import json
import math
import random
import re
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cmd_lightning.data.augmentation import OFF, Augmentation, Change
from cmd_lightning.errors import InputError
from cmd_lightning.image_io import read_image
from cmd_lightning.video_file import VideoError
from cmd_lightning.video_io import VIDEO_SUFFIXES, VideoReader
from cmd_lightning.viewing import PLAIN, Viewing

LATENT_SUFFIX = "safetensors"  # of the member that holds the latents of a clip in place of its video
IMAGE_SUFFIXES = frozenset({"jpg", "jpeg", "png", "webp"})  # of still images, which may take the place of a video

# Entries of a sample's json that may hold its caption, the first choice first.
_CAPTION_FACTS = ("caption", "captions", "text", "prompt", "description", "condition")
_STILL_FPS = 8.0  # of a clip of a still image, where no rate is asked for
_ROUNDING = 1e-6  # of a frame: rounding errors where a time is midway between two frames
_NUMBER = re.compile(r"[0-9]{1,20}(\.[0-9]*)?(e\+?[0-9]{1,2})?", re.IGNORECASE)
_LONGEST = 16  # sides: what is further out in a long source is not scaled, only to be cropped


class BadSample(Exception):
    """A sample that cannot be used; its text is the reason it is counted under."""


SampleLoader = Callable[[dict[str, Any], int, int], dict[str, Any]]
"""Loads a clip from the members of a sample by suffix with "__key__", the number that all random choices follow from,
and the epoch. Raises `BadSample` with the reason."""


@dataclass(frozen=True)
class ClipLoader:
    """Turns the members of a sample into a clip."""

    num_frames: int
    size: tuple[int, int]  # (H, W) in pixels
    fps: float | None = None  # frames per second to sample at; a slower source repeats frames
    stride: int | None = None  # instead, take every stride-th frame of the source
    random_start: bool = False  # else at the first frame
    random_crop: bool = False  # else in the middle
    viewing: Viewing = PLAIN
    augment: Augmentation = OFF
    stills: bool = False  # whether a still image is a clip of equal frames

    def __call__(self, sample: dict[str, Any], draw: int, epoch: int = 0) -> dict[str, Any]:
        """Decode a sample, see `SampleLoader`: video uint8 (C, T, H, W), caption, label (-1: none), key, fps."""
        chance = random.Random(draw)
        facts = read_facts(sample)
        label = read_label(sample, facts)
        caption = read_caption(sample, facts)
        change = self.augment.draw(draw, caption)
        try:
            video, fps, transparent = self._frames(video_of(sample, self.stills), chance, change)
        except VideoError as error:
            raise BadSample(error.reason) from error
        return {
            "video": video,
            "caption": change.caption(caption, transparent),
            "label": label,
            "key": sample["__key__"],
            "fps": fps,
        }

    def _frames(self, data: bytes, chance: random.Random, change: Change) -> tuple[Tensor, float, bool]:
        """The frames, their rate, and whether they show the background that was chosen."""
        try:
            reader = VideoReader(data, change.view(self.viewing))
        except VideoError as error:
            if not self.stills or error.reason != "still image":
                raise
            frame = self._fit(chance, change)(read_image(data, self.viewing.background)[:, None])
            return frame.expand(-1, self.num_frames, -1, -1), self.fps or _STILL_FPS, False
        step = reader.fps / self.fps if self.fps else self.stride or 1
        times = reader.times if self.fps else None
        start = chance if self.random_start else None
        indices = choose_frames(reader.frames, self.num_frames, step, start, times)
        # Some frames at a time: 16 frames of 8K would be 1.6 GB.
        return reader.read(indices, self._fit(chance, change)), reader.fps / step, reader.seen.transparent

    def _fit(self, chance: random.Random, change: Change) -> Callable[[Tensor], Tensor]:
        """What changes, scales and crops frames (C, T, H, W), all of a clip at the same place."""
        at = (chance.random(), chance.random()) if self.random_crop else None
        return lambda frames: resize_and_crop(change.apply(frames), self.size, at)


def choose_frames(
    available: int, num_frames: int, step: float, chance: random.Random | None, times: Sequence[float] | None = None
) -> list[int]:
    """Numbers of `num_frames` frames, `step` mean frame durations apart: of the nearest ones, of two the later.

    `chance` chooses the first one, else it is frame 0; `times` are the seconds of each of two or more frames from the
    first, ascending. A source is too short, a `BadSample`, if the last time wanted is half a frame or more after its
    last frame.
    """
    offsets = [int(index * step + 0.5) for index in range(num_frames)]
    if times is None:
        room = available - 1 - offsets[-1]
    else:
        mean = times[-1] / (available - 1)
        end = times[-1] + mean * (0.5 - _ROUNDING)
        room = bisect_left(times, end - (num_frames - 1) * step * mean) - 1
    if room < 0:
        raise BadSample("too short")
    start = chance.randint(0, room) if chance else 0
    if times is None:
        return [start + offset for offset in offsets]
    return [_nearest(times, times[start] + index * step * mean, _ROUNDING * mean) for index in range(num_frames)]


def _nearest(times: Sequence[float], time: float, rounding: float) -> int:
    after = bisect_left(times, time)
    if after in (0, len(times)):
        return min(after, len(times) - 1)
    return after if time - times[after - 1] >= times[after] - time - rounding else after - 1


def resize_and_crop(video: Tensor, size: tuple[int, int], at: tuple[float, float] | None = None) -> Tensor:
    """Scale a clip (C, T, H, W) until it just covers the size (H, W), with antialiasing, then crop what is over.

    It is uint8, which is rounded, or floats in [0, 1]. `at` says where to crop, down and across, in [0, 1) of the room
    that there is; None crops in the middle.
    """
    height, width = size
    if tuple(video.shape[2:]) == (height, width):
        return video.contiguous()
    scale = max(height / video.shape[2], width / video.shape[3])
    # 1x16000 pixels would become a giant first.
    video = _crop(video, math.ceil(_LONGEST * height / scale), math.ceil(_LONGEST * width / scale), at)
    covering = max(height, round(video.shape[2] * scale)), max(width, round(video.shape[3] * scale))
    if covering != tuple(video.shape[2:]):
        frames = video.transpose(0, 1)
        if video.is_floating_point():
            frames = _interpolate(frames.float(), covering).clamp_(0, 1).to(video.dtype)
        else:
            # Bytes in channels-last order are scaled with whole numbers, as Pillow does, ten times as fast as floats.
            frames = _interpolate(frames.contiguous(memory_format=torch.channels_last), covering)
        video = frames.transpose(0, 1)
    return _crop(video, height, width, at).contiguous()


def _interpolate(frames: Tensor, size: tuple[int, int]) -> Tensor:
    return torch.nn.functional.interpolate(frames, size, mode="bilinear", antialias=True)


def _crop(video: Tensor, height: int, width: int, at: tuple[float, float] | None) -> Tensor:
    spare = max(0, video.shape[2] - height), max(0, video.shape[3] - width)
    if not any(spare):
        return video
    top, left = (room // 2 if at is None else int(at[axis] * (room + 1)) for axis, room in enumerate(spare))
    return video[:, :, top : top + height, left : left + width]


def video_of(sample: dict[str, Any], stills: bool = False) -> bytes:
    """The bytes of a sample's video file, with `stills` else of its image; `BadSample` without any."""
    for suffix in (*VIDEO_SUFFIXES, *(IMAGE_SUFFIXES if stills else ())):
        if suffix in sample:
            return sample[suffix]
    raise BadSample("latents, for LatentDataModule" if LATENT_SUFFIX in sample else "no video")


def read_facts(sample: dict[str, Any]) -> dict[str, Any]:
    """The .json of a sample, with a mark for each unreadable character; empty without one, `BadSample` if damaged."""
    data = sample.get("json", b"{}")
    try:
        facts = json.loads(data.decode(json.detect_encoding(data), "replace"))
    except (ValueError, RecursionError) as error:
        raise BadSample("unreadable json") from error
    return facts if isinstance(facts, dict) else {}


def read_label(sample: dict[str, Any], facts: dict[str, Any]) -> int:
    """The class of a sample: its .cls, else the label in its facts, as 3, "3" or 3.0.

    It is -1 without one and where it is a name, and `BadSample` where it is a number that is no class.
    """
    label = sample["cls"].decode("ascii", "replace") if "cls" in sample else facts.get("label")
    if isinstance(label, str | float):
        label = whole_number(str(label).strip())
    if not isinstance(label, int):
        return -1
    if isinstance(label, bool) or not -1 <= label < 2**63:
        raise BadSample("bad label")
    return label


def whole_number(text: str) -> int | None:
    """The number that a text is, as "3", "3.0" or "3e0"; None for others, and where it is no int64 of at least 0."""
    if not _NUMBER.fullmatch(text):
        return None
    number = int(text) if text.isdecimal() else float(text)
    return int(number) if number < 2**63 and number == int(number) else None


def read_caption(sample: dict[str, Any], facts: dict[str, Any]) -> str:
    """The caption of a sample: its .txt, else the first of `_CAPTION_FACTS` that is not empty; "" without any."""
    data = sample.get("txt", b"")
    if text := data.decode(json.detect_encoding(data), "replace").strip():  # Windows editors write UTF-16 too
        return text
    for name in _CAPTION_FACTS:
        value = facts.get(name)
        if isinstance(value, list):
            value = [one for one in value if isinstance(one, str)]
        # A number that `generate` writes as its condition is a class.
        known = isinstance(value, str | list) or (name != "condition" and not isinstance(value, bool))
        if known and (text := text_of(value)):
            return text
    return ""


def text_of(value: Any) -> str:
    """An entry of a json or a table as text; of several captions the first that is not empty."""
    if isinstance(value, list):
        return next(filter(None, map(text_of, value)), "")
    if value is None or value != value or isinstance(value, dict):  # NaN is not equal to itself
        return ""
    return str(value).encode("utf-8", "replace").decode().strip()  # JSON may hold half a character


_NUMBERS = {"label": torch.int64, "fps": torch.float32}


def collate(clips: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Batch clips, as `ClipLoader` and `load_latents` give them.

    Returns:
        The tensors stacked: "video" uint8 (B, C, T, H, W), or latents as they are stored. "caption" and "key" lists,
        "label" int64 (B,) if the clips have one, "fps" float32 (B,); of latents also "made_by", a list, and "text" with
        tensors by encoder and part.
    """
    tensors = [{name: value for name, value in clip.items() if isinstance(value, Tensor)} for clip in clips]
    batch = _stack(tensors, clips)
    for name in ("caption", "label", "key", "fps", "made_by"):
        if name in clips[0]:
            values = [clip[name] for clip in clips]
            batch[name] = torch.tensor(values, dtype=_NUMBERS[name]) if name in _NUMBERS else values
    if "text" in clips[0]:
        encoders = {encoder for clip in clips for encoder in clip["text"]}
        batch["text"] = {
            encoder: _stack([clip["text"].get(encoder, {}) for clip in clips], clips) for encoder in sorted(encoders)
        }
    return batch


def _stack(tensors: Sequence[dict[str, Tensor]], clips: Sequence[dict[str, Any]]) -> dict[str, Any]:
    shapes = [{name: (*tensor.shape,) for name, tensor in sorted(named.items())} for named in tensors]
    for shape, clip in zip(shapes, clips, strict=True):
        if shape != shapes[0]:
            raise InputError(
                f"data: clip {clips[0]['key']} has {shapes[0]}, clip {clip['key']} {shape}; latents of a batch must be "
                "of one shape, so give shards of one `shards encode`"
            )
    return {name: torch.stack([named[name] for named in tensors]) for name in tensors[0]}
