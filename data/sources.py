"""The clips that an evaluation reads: shards, folders of videos and arrays as map-style data sets, each clip once.

Every source knows its exact length and opens any clip at once, so that each of k ranks takes every k-th clip:
nothing is repeated to fill up, as a DistributedSampler does, and no clip counts twice in a distance.
"""

import os
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset

from cmd_lightning.data.clip_arrays import ARRAY_SUFFIXES, ArrayFile
from cmd_lightning.data.clip_files import Clips, ShardFiles, VideoFolder
from cmd_lightning.data.clips import BadSample, read_caption, read_facts, resize_and_crop
from cmd_lightning.data.index import expand, is_remote
from cmd_lightning.data.selection import Selection
from cmd_lightning.data.stream import describe
from cmd_lightning.errors import InputError
from cmd_lightning.video_io import VIDEO_SUFFIXES, natural_key

KINDS = (
    f".tar shards (path, glob, {{000..009}} or folder), a folder of videos ({', '.join(VIDEO_SUFFIXES)}) "
    f"or of folders of PNG frames, an array ({', '.join(ARRAY_SUFFIXES)})"
)


class ClipSource(Dataset):
    """The chosen clips of a source, in its order; `open_source` makes one.

    The order is natural, by path: numbers in names count as numbers, so that 2.mp4 comes before 10.mp4.
    Shards follow each other so too; within a shard, as within an array, clips keep their places.

    An item is {"video": (3, T, H, W), uint8, or float32 in [0, 1] of an array of floats; "key": unique in the source;
    "caption": "" if none; "fps": after sampling, 0.0 if unknown}. What is wrong with a clip is raised as `InputError`.

    Attributes:
        of: Number of usable clips there.
        chosen: Numbers of the chosen ones among them, ascending.
        keys: Names of the chosen clips, in that order.
        skipped: Numbers of unusable samples of shards by reason; they count nowhere else.

    Raises:
        InputError: There are no clips or fewer than asked for, frames are too few where that is known without
            decoding, or `fps` is asked of clips of unknown rate.
    """

    def __init__(self, path: str, selection: Selection, clips: Clips) -> None:
        self.path, self.selection, self._clips = path, selection, clips
        self.of, self.skipped = len(clips.keys), clips.skipped
        if not clips.keys:
            skipped = f" ({describe(clips.skipped)})" if clips.skipped else ""
            raise InputError(f"{path}: holds no usable clips{skipped}; there are {KINDS}")
        self.chosen = selection.clips(self.of, path)
        self.keys = [clips.keys[index] for index in self.chosen]
        for index in self.chosen:
            known = clips.frames(index)
            if known is not None:  # reported at once, not after an hour of decoding
                selection.frame_numbers(known, 0.0, clips.keys[index], clips.title(index))

    def __len__(self) -> int:
        """Number of chosen clips."""
        return len(self.chosen)

    def __getitem__(self, item: int) -> dict[str, Any]:
        """Read the clip of a number."""
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
        }

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

    Args:
        path: Local shards (a .tar, glob, brace range, or folder that holds some); a folder with videos and folders of
            PNG frames at any depth, or of PNG frames; an array of clips (.npy, or .pt and .pth with a tensor).
        selection: Which clips and frames.

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
        return ClipSource(text, selection, VideoFolder(place))
    if place.is_dir() or ".tar" in place.name:
        return ClipSource(text, selection, ShardFiles(sorted(expand(text), key=natural_key)))
    problem = "cannot be read as clips" if place.exists() else "no such file or folder"
    raise InputError(f"{text}: {problem}; there are {KINDS}")
