"""Read clips: video files, animations and folders of frames, always as uint8 (C, T, H, W).

Video files are decoded by PyAV (`video_file`), animated WebP by Pillow (`animation`), imported when first needed.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cmd_lightning.animation import WebPFile, is_webp
from cmd_lightning.errors import InputError
from cmd_lightning.image_io import read_image
from cmd_lightning.video_file import VideoError, VideoFile
from cmd_lightning.viewing import PLAIN, Seen, Viewing

VIDEO_SUFFIXES = (
    *("mp4", "avi", "mkv", "webm", "gif", "mov", "m4v", "mpg", "mpeg", "vob", "ts", "mts", "m2ts", "wmv", "asf"),
    *("flv", "f4v", "ogv", "3gp", "3g2", "apng", "webp"),
)
"""Of clips, in lower case; of the files of a sample the first in this order is its clip."""
FRAME_SUFFIXES = ("png", "tif", "tiff")  # of frames in folders; of a folder with both kinds the PNG frames are used

_GROUP = 2**22  # bytes of frames that are kept in full; more at a time is no faster


@dataclass(frozen=True)
class VideoInfo:
    """What a clip is, as it is shown; the flags are those of `Seen`, of the frames read so far."""

    frames: int
    fps: float  # mean frames per second; 0 where it is unknown (a folder of frames)
    width: int  # pixels
    height: int
    interlaced: bool
    hdr: bool
    transparent: bool


class VideoReader:
    """A clip of which any frames can be read, in any order, decoding no more than they need.

    Attributes:
        frames, fps: Number of frames, and frames per second on average; 0 where the rate is unknown (a folder).
        times: Seconds of each frame from the first where the rate varies; None where it is constant.
        seen: What is known of the frames that were decoded so far.

    Args:
        source: A file, a folder of PNG or TIFF frames (in natural order of their names), or the bytes of a file.
        viewing: How interlaced, HDR and transparent frames are shown.

    Raises:
        InputError: The source is missing.
        VideoError: It cannot be read as video.
    """

    def __init__(self, source: str | Path | bytes, viewing: Viewing = PLAIN) -> None:
        self._name = "clip in memory" if isinstance(source, bytes) else str(source)
        source = source if isinstance(source, bytes) else Path(source)
        if isinstance(source, Path) and not source.exists():
            raise InputError(f"{source}: no such video file or folder; check the path")
        self._file: _ImageFolder | WebPFile | VideoFile
        if isinstance(source, Path) and source.is_dir():
            self._file = _ImageFolder(source, viewing)
        else:  # whatever its name says
            self._file = (WebPFile if is_webp(source) else VideoFile)(source, self._name, viewing)
        self.frames, self.fps, self.times = self._file.frames, self._file.fps, self._file.times
        self.seen = self._file.seen

    @cached_property
    def info(self) -> VideoInfo:
        """What the clip is, by its first frame, which is decoded: only that gives the size as it is shown."""
        _, _, height, width = self.read([0]).shape
        return VideoInfo(self.frames, self.fps, width, height, **vars(self.seen))

    def read(
        self, indices: Sequence[int] | None = None, transform: Callable[[Tensor], Tensor] = lambda frames: frames
    ) -> Tensor:
        """Decode frames.

        Args:
            indices: Frame numbers from 0 in order of presentation, repeats allowed; None reads every frame.
            transform: Applied to some frames at a time, uint8 RGB (C, T, H, W), so that few are kept in full.

        Returns:
            (C, T, H, W), one frame for each index: uint8 RGB as it is shown, or the output of `transform`.

        Raises:
            InputError: A number is out of range.
            VideoError: A frame cannot be decoded, or only at too high a cost.
        """
        indices = range(self.frames) if indices is None else indices
        wanted = sorted(set(indices))
        if not wanted or wanted[0] < 0 or wanted[-1] >= self.frames:
            raise InputError(f"{self._name}: has {self.frames} frames, not those asked for; ask for fewer or earlier")
        order: list[int] = []
        parts = []
        for numbers, frames in _grouped(self._file.decode(wanted)):
            order += numbers
            parts.append(transform(frames))
            del frames
        if len({part.shape[2:] for part in parts}) > 1:
            raise VideoError(self._name, "damaged frames", "of several sizes")
        video = torch.cat(parts, 1) if len(parts) > 1 else parts[0].contiguous()
        if order == [*indices]:
            return video
        places = {index: place for place, index in enumerate(order)}
        return video[:, [places[index] for index in indices]]

    def verify(self) -> None:
        """Decode every frame and keep none; raises `VideoError` if one is damaged or missing."""
        if missing := max(0, self.frames - self._file.count()):
            raise VideoError(self._name, "damaged frames", f"{missing} cannot be decoded")


def _grouped(frames: Iterator[tuple[int, np.ndarray]]) -> Iterator[tuple[list[int], Tensor]]:
    """Numbered frames (H, W, 3), some at a time, of one size: their numbers, and (3, T, H, W); large ones alone."""
    numbers: list[int] = []
    group: list[np.ndarray] = []
    for number, frame in frames:
        if group and frame.shape != group[0].shape:
            yield _taken(numbers, group)
        numbers.append(number)
        group.append(frame)
        if (len(group) + 1) * frame.size > _GROUP:
            del frame  # before the next one is decoded
            yield _taken(numbers, group)
    if group:
        yield _taken(numbers, group)


def _taken(numbers: list[int], group: list[np.ndarray]) -> tuple[list[int], Tensor]:
    """The frames of a group as a tensor; the lists are empty then."""
    stack = np.stack(group) if len(group) > 1 else np.ascontiguousarray(group[0])[None]  # a large one as it is
    taken = [*numbers], torch.from_numpy(stack).permute(3, 0, 1, 2)
    numbers.clear()
    group.clear()
    return taken


class _ImageFolder:
    """A folder of PNG or TIFF frames in natural order, with the interface of a `VideoFile`."""

    fps, times = 0.0, None
    seen = Seen()

    def __init__(self, folder: Path, viewing: Viewing) -> None:
        self._paths, self._viewing = frames_in(folder), viewing
        if not self._paths:
            raise InputError(f"{folder}: the folder holds no .png or .tif frames; name a video file or such a folder")
        self.frames = len(self._paths)

    def decode(self, wanted: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        for index in wanted:
            yield index, read_image(self._paths[index], self._viewing.background).permute(1, 2, 0).numpy()

    def count(self) -> int:
        return sum(1 for _ in self.decode(range(self.frames)))


def frames_in(folder: Path) -> list[Path]:
    """The PNG frames of a folder in natural order of their names; where it has none, the TIFF frames."""
    named = sorted(folder.iterdir(), key=lambda path: natural_key(path.name))
    shown = [path for path in named if not path.name.startswith(".")]  # macOS puts ._000.png next to 000.png
    groups = ([path for path in shown if path.suffix[1:].lower() in kind] for kind in (("png",), ("tif", "tiff")))
    return next(filter(None, groups), [])


def natural_key(path: str) -> tuple[str, str]:
    """Sort key for natural order, by the numbers in paths: "a/2" comes before "a/10", and "02" before "2"."""
    return re.sub(r"[0-9]+", lambda number: number[0].zfill(20), path), path


def read_video(source: str | Path | bytes, indices: Sequence[int] | None = None, viewing: Viewing = PLAIN) -> Tensor:
    """Read a clip, or some of its frames, as uint8 RGB (C, T, H, W); see `VideoReader` and its `read`."""
    return VideoReader(source, viewing).read(indices)
