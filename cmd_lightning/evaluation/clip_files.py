"""Clips in local shards and in folders of videos, any of which can be opened at once."""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from cmd_lightning.clip_folder import clip_suffix, walk
from cmd_lightning.data.clips import BadSample, video_of
from cmd_lightning.data.index import load_index, shard_names
from cmd_lightning.data.tar import Sample, read_samples
from cmd_lightning.errors import InputError
from cmd_lightning.video_io import FRAME_SUFFIXES, VideoReader, frames_in, natural_key
from cmd_lightning.viewing import PLAIN, Viewing


@dataclass(frozen=True)
class OpenClip:
    """A clip of which any frames can be read."""

    frames: int
    fps: float  # 0.0 if unknown
    read: Callable[[list[int]], Tensor]  # of frames by number, as (3, T, H, W), uint8 or float32 in [0, 1]
    members: dict[str, bytes] = field(default_factory=dict)  # its "txt" and "json"
    times: Sequence[float] | None = None  # seconds of each frame from the first where the rate varies


class Clips(ABC):
    """Clips that can be opened by number; pickled for a worker process without open files."""

    kind: str  # "shards", "videos" or "array"
    keys: list[str]  # unique
    skipped: dict[str, int]  # numbers of samples that are not among the clips, by reason

    @abstractmethod
    def title(self, index: int) -> str:
        """What errors call a clip."""

    def frames(self, index: int) -> int | None:
        """Number of frames of a clip whose rate is unknown, where that needs no decoding; else None."""
        return None

    @abstractmethod
    def open(self, index: int) -> OpenClip:
        """Open a clip."""


class ShardFiles(Clips):
    """Samples of local tar shards, found by their offset; those known to be bad are left out."""

    kind = "shards"

    def __init__(self, urls: Sequence[str], viewing: Viewing = PLAIN) -> None:
        self._viewing = viewing
        skipped: Counter[str] = Counter()
        self._samples: list[Sample] = []
        for shard in load_index(list(dict.fromkeys(urls))):
            with open(shard.url, "rb") as file:
                for sample in read_samples(file, shard.url):
                    if fault := shard.bad.get(sample.key, sample.fault):
                        skipped[fault] += 1
                    else:
                        self._samples.append(replace(sample, file=None))
        self.skipped = dict(skipped)
        self.keys = [sample.key for sample in self._samples]
        if len(set(self.keys)) < len(self.keys):  # of shards that were packed one by one
            files = list(dict.fromkeys(sample.url for sample in self._samples))
            names = dict(zip(files, shard_names(files), strict=True))
            self.keys = [f"{names[sample.url]}/{sample.key}" for sample in self._samples]  # as in batches

    def title(self, index: int) -> str:
        return f"{self._samples[index].url} clip {self._samples[index].key}"

    def open(self, index: int) -> OpenClip:
        sample = self._samples[index]
        with open(sample.url, "rb") as file:
            try:
                members = replace(sample, file=file).read()
            except BadSample as reason:
                raise InputError(f"{self.title(index)}: {reason}; fetch or pack the shard again") from reason
        reader = self._named(index, partial(VideoReader, viewing=self._viewing), video_of(members))
        read = partial(self._named, index, reader.read)
        return OpenClip(reader.frames, reader.fps, read, members, reader.times)

    def _named(self, index: int, act: Callable[[Any], Any], argument: Any) -> Any:
        try:
            return act(argument)
        except InputError as error:  # it speaks of a clip in memory
            reason = str(error).partition(": ")[2].partition(";")[0]
            raise InputError(f"{self.title(index)}: {reason}; `shards check` marks bad clips to be left out") from error


class VideoFolder(Clips):
    """Video files and folders of PNG or TIFF frames at any depth; hidden ones and other files are ignored.

    A folder that holds frames and no videos is one clip. Clips, like the frames of one, are in natural order (2 before
    10) of their paths. Two that have the same name but for the suffix are an error: one clip would count twice.
    """

    kind = "videos"

    def __init__(self, folder: Path, viewing: Viewing = PLAIN) -> None:
        self._viewing = viewing
        self.skipped = {}
        found: dict[str, Path] = {}
        for path in _clips_below(folder):
            stem = path if path.is_dir() else path.with_suffix("")
            key = folder.resolve().name if path == folder else stem.relative_to(folder).as_posix()
            if key in found:
                raise InputError(f"{folder}: {found[key].name} and {path.name} are one clip twice; remove one of them")
            found[key] = path
        self.keys = sorted(found, key=natural_key)
        self._paths = [found[key] for key in self.keys]

    def title(self, index: int) -> str:
        return str(self._paths[index])

    def frames(self, index: int) -> int | None:
        path = self._paths[index]
        return len(frames_in(path)) if path.is_dir() else None  # as VideoReader counts them

    def open(self, index: int) -> OpenClip:
        path = self._paths[index]
        reader = VideoReader(path, self._viewing)
        stem = path if path.is_dir() else path.with_suffix("")
        members = {name: file.read_bytes() for name in ("txt", "json") if (file := Path(f"{stem}.{name}")).is_file()}
        return OpenClip(reader.frames, reader.fps, reader.read, members, reader.times)


def _clips_below(folder: Path) -> Iterator[Path]:
    for place, names in walk(folder):
        here = [place / name for name in names]
        if videos := [path for path in here if clip_suffix(path)]:
            yield from videos
        elif any(path.suffix[1:].lower() in FRAME_SUFFIXES for path in here):
            yield place
