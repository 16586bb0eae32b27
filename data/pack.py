"""Pack clips from folders into shards, byte for byte as they are."""

import os
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from cmd_lightning.data.annotations import Row, read_annotations
from cmd_lightning.data.shard_writer import ShardWriter, split_folder
from cmd_lightning.errors import InputError
from cmd_lightning.video_file import VideoError
from cmd_lightning.video_io import VIDEO_SUFFIXES, VideoReader

_TOLD = 10  # clips of a reason: of a part of OpenVid-1M a million others are missing


def pack_clips(
    videos: str | Path,
    out: str | Path,
    captions: str | Path | None = None,
    *,
    prompts: str | Path | None = None,
    shard_size: int = 1000,
    split: str | None = None,
    seed: int = 0,
    progress: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Pack the clips of a table, of a public data set or of class folders; unusable ones are left out and counted.

    Labels that are all whole numbers are kept; names are numbered in the order of the alphabet, over all
    splits, those of UCF-101 as it numbers them.

    The arguments are those of the command `shards pack`; `progress` receives a line of text now and then.

    Returns:
        {"samples": number packed, "bad": {reason: number}, "splits": {folder: number}, "classes": [names]}.
    """
    folder = Path(videos)
    if not folder.is_dir():
        raise InputError(f"videos {videos}: no such folder; name the folder that holds the clips")
    known = read_annotations(folder, Path(captions) if captions else None, Path(prompts) if prompts else None, seed)
    rows = known.rows
    if split is not None:
        if not any(row.split for row in rows):  # one table for each split
            rows = [replace(row, split=split) for row in rows]
        rows = [row for row in rows if row.split == split]
        if not rows:
            there = ", ".join(sorted({row.split for row in known.rows if row.split}))
            raise InputError(f"split {split}: no clip of {captions} is in it; give one of {there}")

    files = _ClipFolder(folder, known.moved)
    bad: Counter[str] = Counter()
    made: Counter[str] = Counter()
    with ExitStack() as stack:
        writers = {
            name: stack.enter_context(ShardWriter(split_folder(out, name), shard_size, known.classes))
            for name in dict.fromkeys(row.split for row in rows)
        }
        for number, row in enumerate(rows, 1):
            if reason := _pack_one(files, row, known.labels, writers[row.split]):
                bad[reason] += 1
                if bad[reason] <= _TOLD:
                    others = "; others for this reason are only counted" if bad[reason] == _TOLD else ""
                    progress(f"left out, {reason}: {row.path}{others}")
            else:
                made[row.split] += 1
            if number % 1000 == 0 or number == len(rows):
                progress(f"{number} of {len(rows)} clips")
        if not made:
            raise InputError(
                f"videos {videos}: not one of {len(rows)} clips is usable ({dict(bad)}); see the paths, {rows[0].path} "
                "is the first"
            )
    return {
        "samples": sum(made.values()),
        "bad": dict(bad),
        "splits": {str(Path(out, name)): count for name, count in made.items()},
        "classes": known.classes,
    }


def _pack_one(files: "_ClipFolder", row: Row, labels: dict[str, int], writer: ShardWriter) -> str | None:
    path = files.find(row.path)
    suffix = path.suffix.lower().lstrip(".")
    if suffix not in VIDEO_SUFFIXES:
        return "unknown suffix"
    if not path.is_file():
        return "missing file"
    data = path.read_bytes()
    try:
        info = VideoReader(data).info
    except VideoError as error:
        return error.reason
    about: dict[str, Any] = {"label": labels.get(row.label, -1), "path": row.path}
    if row.label:
        about["class"] = row.label
    if row.captions:
        about["captions"] = list(row.captions)
    writer.write(suffix, data, row.caption, about | asdict(info))
    return None


@dataclass
class _ClipFolder:
    """Where the files of rows are."""

    folder: Path
    moved: bool  # a file that is not at its path may be anywhere in the folder, in any format

    def find(self, path: str) -> Path:
        """The file of a row, or where it would be if it existed; raises `InputError` where it is there twice."""
        place = self.folder / path
        if not self.moved or place.is_file():
            return place
        found = self._places.get(place.stem, [])
        if len(found) > 1:
            raise InputError(
                f"videos {self.folder}: {place.stem} lies there twice, as {found[0]} and {found[1]}; name the folder "
                "of one"
            )
        return self.folder / found[0] if found else place

    @cached_property
    def _places(self) -> dict[str, list[str]]:
        places: dict[str, list[str]] = {}
        for folder, _, names in os.walk(self.folder):
            within = Path(folder).relative_to(self.folder)
            for stem, suffix in map(os.path.splitext, names):
                if suffix.lower().lstrip(".") in VIDEO_SUFFIXES:
                    places.setdefault(stem, []).append(os.path.join(within, stem + suffix))
        return places
