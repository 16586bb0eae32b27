"""The clips that an evaluation reads: shards, folders of videos and arrays as map-style data sets, each clip once.

Every source knows its exact length and opens any clip at once, so that each of k ranks takes every k-th clip:
nothing is repeated to fill up, as a DistributedSampler does, and no clip counts twice in a distance.
"""

import math
import os
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch.utils.data import Dataset

from cmd_lightning.data.bad_samples import describe
from cmd_lightning.data.clips import BadSample, choose_frames, read_caption, read_facts, resize_and_crop
from cmd_lightning.data.index import expand, is_remote
from cmd_lightning.data.plan import stable_hash
from cmd_lightning.errors import InputError, check_positive
from cmd_lightning.evaluation.clip_arrays import ARRAY_SUFFIXES, LAYOUTS, ArrayFile
from cmd_lightning.evaluation.clip_files import Clips, ShardFiles, VideoFolder
from cmd_lightning.video_io import VIDEO_SUFFIXES, natural_key
from cmd_lightning.viewing import PLAIN, Viewing

KINDS = (
    f".tar shards (path, glob, {{000..009}} or folder), a folder of videos ({', '.join(VIDEO_SUFFIXES)}) "
    f"or of folders of PNG or TIFF frames, an array ({', '.join(ARRAY_SUFFIXES)})"
)


@dataclass(frozen=True)
class Selection:
    """Which clips of a source are taken, and which frames of them.

    `choose` says which clips if there are more than `num`: a random subset, or the first in the order of the source,
    which is what StyleGAN-V takes (of UCF-101 they show 15 of the 101 classes).

    Raises:
        InputError: A value is out of range, or stride and fps are both given.
    """

    frames: int = 16
    stride: int | None = None  # distance of the frames in source frames; 1 where neither it nor `fps` is given
    fps: float | None = None  # instead, frames per second to sample at; a slower source repeats frames
    size: tuple[int, int] | None = None  # (H, W) in pixels, scaled to cover it and cropped in the middle
    random_start: bool = False  # a clip begins at a random frame, by (seed, key); otherwise at frame 0
    num: int | None = None  # of clips; None takes all
    choose: Literal["random", "first"] = "random"
    seed: int = 0  # of the choice and of the starts
    layout: str | None = None  # axes of an array, one of `LAYOUTS`; None finds them by the one of size 3
    viewing: Viewing = PLAIN

    def __post_init__(self) -> None:
        counts = {"frames": self.frames, "stride": self.stride, "num": self.num}
        check_positive(**{name: count for name, count in counts.items() if count is not None})
        if self.fps is not None and not 0 < self.fps < math.inf:
            raise InputError(f"fps {self.fps}: must be a number above 0, e.g. 8")
        if self.fps is not None and self.stride is not None:
            raise InputError(f"stride {self.stride}, fps {self.fps}: give one of the two")
        if self.size is not None and (len(self.size) != 2 or min(self.size) < 1):
            raise InputError(f"size {self.size}: give height and width in pixels, e.g. 64 64")
        if self.choose not in ("random", "first"):
            raise InputError(f"choose {self.choose}: give random or first")
        if self.layout not in (None, *LAYOUTS):
            raise InputError(f"layout {self.layout}: give one of {', '.join(LAYOUTS)}")

    def clips(self, there: int, path: str) -> list[int]:
        """Numbers of the clips to take of those in a source, ascending; `InputError` if there are fewer than `num`."""
        if self.num is None:
            return list(range(there))
        if self.num > there:
            raise InputError(f"num {self.num}: {path} has {there} clips; give `num` {there} or less (never repeated)")
        if self.choose == "first":
            return list(range(self.num))
        return sorted(random.Random(stable_hash("choose", self.seed)).sample(range(there), self.num))

    def frame_numbers(
        self, available: int, rate: float, key: str, title: str, times: Sequence[float] | None = None
    ) -> tuple[list[int], float]:
        """Numbers of the frames to take of a clip, and their distance in source frames.

        Its `rate` is 0.0 if unknown; where it varies, `fps` uses the `times` of its frames, a stride does not. The
        `key` seeds a random start; errors call it `title`.
        """
        if self.fps and not rate:
            raise InputError(f"fps {self.fps:g}: nothing tells the rate of {title}; give a stride instead")
        step = rate / self.fps if self.fps else self.stride or 1
        chance = random.Random(stable_hash("start", self.seed, key)) if self.random_start else None
        try:
            return choose_frames(available, self.frames, step, chance, times if self.fps else None), step
        except BadSample as reason:
            needed = int((self.frames - 1) * step + 0.5) + 1
            raise InputError(
                f"frames {self.frames}: {title} has {available} frames and {needed} are needed; give `frames` "
                f"{int((available - 1) / step) + 1} or less, or remove it"
            ) from reason


class ClipSource(Dataset):
    """The chosen clips of a source, in natural order of the paths (2.mp4 before 10.mp4), also of shards.

    An item is {"video": (3, T, H, W), uint8, or float32 in [0, 1] of an array of floats; "key": unique in the source;
    "caption": "" if none; "fps": after sampling, 0.0 if unknown}. What is wrong with a clip is raised as `InputError`.

    Attributes:
        all_keys: Names of all usable clips there.
        of: Their number.
        chosen: Numbers of the chosen ones among them; ascending until `take`.
        keys: Names of the chosen clips, in that order.
        skipped: Numbers of unusable samples of shards by reason; they count nowhere else.

    Raises:
        InputError: There are no clips or fewer than asked for, frames are too few where that is known without
            decoding, or `fps` is asked of clips of unknown rate.
    """

    def __init__(self, path: str, selection: Selection, clips: Clips) -> None:
        self.path, self.selection, self._clips = path, selection, clips
        self.all_keys, self.of, self.skipped = clips.keys, len(clips.keys), clips.skipped
        if not clips.keys:
            skipped = f" ({describe(clips.skipped)})" if clips.skipped else ""
            raise InputError(f"{path}: holds no usable clips{skipped}; there are {KINDS}")
        self.take(selection.clips(self.of, path))

    def take(self, numbers: Sequence[int]) -> None:
        """Choose clips by their numbers among all usable ones, in the order given."""
        clips = self._clips
        self.chosen = list(numbers)
        self.keys = [clips.keys[index] for index in self.chosen]
        for index in self.chosen:
            if (known := clips.frames(index)) is not None:  # reported at once, not after an hour of decoding
                self.selection.frame_numbers(known, 0.0, clips.keys[index], clips.title(index))

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, item: int) -> dict[str, Any]:
        index = self.chosen[item]
        try:
            return self._load(index)
        except OSError as error:  # a shard or caption that is gone, locked or on a failing disk
            problem = f"{error.strerror or error}; check that its files can be read"
            raise InputError(f"{self._clips.title(index)}: {problem}") from error

    def describe(self) -> dict[str, Any]:
        """What was read and how, as plain data for the record of a result.

        Rates after and before sampling (None: unknown) and the size [H, W] are those of the first clip.
        """
        first, asked = self[0], self.selection
        return {
            "path": self.path,
            "kind": self._clips.kind,
            "clips": len(self),
            "of": self.of,
            "frames": asked.frames,
            "stride": None if asked.fps else asked.stride or 1,
            "fps": first["fps"] or None,
            "source_fps": self._clips.open(self.chosen[0]).fps or None,
            "size": list(first["video"].shape[2:]),
            "choose": asked.choose,
            "random_start": asked.random_start,
            "seed": asked.seed,
            "skipped": dict(self.skipped),
        } | asked.viewing.describe()

    def _load(self, index: int) -> dict[str, Any]:
        key, title, clip = self._clips.keys[index], self._clips.title(index), self._clips.open(index)
        try:
            facts = read_facts(clip.members)
        except BadSample as reason:
            raise InputError(f"{title}: {reason}; repair or remove its .json") from reason
        numbers, step = self.selection.frame_numbers(clip.frames, clip.fps, key, title, clip.times)
        video = clip.read(numbers)
        return {
            "video": video if self.selection.size is None else resize_and_crop(video, self.selection.size),
            "key": key,
            "caption": read_caption(clip.members, facts),
            "fps": self.selection.fps or clip.fps / step,  # as asked, not as rounded: clips of all rates agree
        }


def open_source(path: str | Path, selection: Selection) -> ClipSource:
    """Open the clips under a path.

    It is one of local shards (a .tar, glob, brace range, or folder that holds some); a folder with videos and folders
    of frames (PNG or TIFF) at any depth, or of frames; an array of clips (.npy, or .pt and .pth with a tensor).

    Raises:
        InputError: The path is none of these, is remote, or cannot be read; or see `ClipSource`.
    """
    text = os.fspath(path)
    place = Path(text)
    if is_remote(text):
        raise InputError(f"{text}: evaluate reads local shards; fetch them first")
    if place.suffix in ARRAY_SUFFIXES and place.is_file():
        return ClipSource(text, selection, ArrayFile(place, selection.layout))
    if place.is_dir() and not any(place.glob("*.tar")):
        return ClipSource(text, selection, VideoFolder(place, selection.viewing))
    if place.is_dir() or ".tar" in place.name:
        urls = sorted(expand(text), key=natural_key)
        return ClipSource(text, selection, ShardFiles(urls, selection.viewing))
    problem = "cannot be read as clips" if place.exists() else "no such file or folder"
    raise InputError(f"{text}: {problem}; there are {KINDS}")
