"""Pack clips from folders into shards, byte for byte as they are."""

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from cmd_lightning.clip_folder import clip_suffix, files_below
from cmd_lightning.data.bad_samples import describe
from cmd_lightning.data.shard_writer import ShardWriter, split_folder
from cmd_lightning.errors import InputError
from cmd_lightning.packing.annotations import Annotations, Row, read_annotations
from cmd_lightning.packing.hold_out import held_out
from cmd_lightning.video_file import VideoError
from cmd_lightning.video_io import VideoInfo, VideoReader

_LISTED = 10  # clips per reason: a part of OpenVid-1M lacks a million clips of its table


def pack_clips(
    videos: str | Path,
    out: str | Path,
    captions: str | Path | None = None,
    *,
    prompts: str | Path | None = None,
    shard_size: int = 1000,
    split: str | None = None,
    hold_out: float | None = None,
    seed: int = 0,
    progress: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Pack the clips of a table, of a public data set or of a folder; unusable ones are left out and counted.

    Labels that are all whole numbers are kept; names are numbered in the order of the alphabet, over all
    splits, those of UCF-101 as it numbers them.

    The arguments are those of the command `shards pack`; `progress` receives a line of text now and then.

    Returns:
        {"samples": number packed, "bad": {reason: number}, "splits": {folder: number}, "classes": [names],
        "num_classes": 1 + the largest label, "empty_captions": number of packed clips without a caption, "notes":
        [what a user should know of how the captions were read]}.
    """
    folder = Path(videos)
    if not folder.is_dir():
        raise InputError(f"videos {videos}: no such folder; name the folder that holds the clips")
    if hold_out is not None:
        if not 0 < hold_out < 1:
            raise InputError(f"hold_out {hold_out}: give a share between 0 and 1, e.g. 0.1")
        if split is not None:
            raise InputError(f"hold_out {hold_out} and split {split}: give one of the two")
    known = read_annotations(folder, Path(captions) if captions else None, Path(prompts) if prompts else None, seed)
    rows = _of_split(known.rows, split, hold_out)
    for note in known.notes:
        progress(note)

    files = _ClipFolder(folder, known.moved)
    bad: Counter[str] = Counter()

    def leave_out(reason: str, path: str) -> None:
        bad[reason] += 1
        if bad[reason] <= _LISTED:
            others = "; others for this reason are only counted" if bad[reason] == _LISTED else ""
            progress(f"left out, {reason}: {path}{others}")

    for reason, path in files.unused(known, Path(out), [Path(path) for path in (captions, prompts) if path]):
        leave_out(reason, path)
    clips = _usable(files, rows, leave_out, progress)
    if hold_out is not None:
        usable = list(clips)
        clips = iter(_held_out(usable, hold_out, seed) if usable else ())
    splits = ["train", "test"] if hold_out is not None else dict.fromkeys(row.split for row in rows)
    made: Counter[str] = Counter()
    empty = unreadable = 0
    with ExitStack() as stack:
        writers = {
            name: stack.enter_context(
                ShardWriter(split_folder(out, name), shard_size, known.classes, known.num_classes)
            )
            for name in splits
        }
        for clip in clips:
            clip.write(writers[clip.row.split], known.labels)
            made[clip.row.split] += 1
            empty += not clip.row.caption
            unreadable += "\ufffd" in clip.row.caption
        if not made:
            problem = f"none of {len(rows)} clips is usable ({describe(bad)})"
            raise InputError(f"videos {videos}: {problem}; check the paths, {rows[0].path} is the first")
    unlabelled = sum(not row.label for row in known.rows) if known.labels else 0
    counted = {
        f"captions: {empty} of {made.total()} clips have none": empty,
        f"labels: {unlabelled} of {len(known.rows)} clips have none": unlabelled,
        f"captions: {unreadable} with unreadable characters (\ufffd); save them as UTF-8": unreadable,
    }
    notes = [note for note, number in counted.items() if number]
    for note in notes:
        progress(note)
    return {
        "samples": made.total(),
        "bad": dict(bad),
        "splits": {str(Path(out, name)): made[name] for name in splits if made[name]},
        "classes": known.classes,
        "num_classes": known.num_classes,
        "empty_captions": empty,
        "notes": known.notes + notes,
    }


def _of_split(rows: list[Row], split: str | None, hold_out: float | None) -> list[Row]:
    there = sorted({row.split for row in rows if row.split})
    if hold_out is not None and there:
        raise InputError(f"hold_out {hold_out}: the clips have splits already ({', '.join(there)}); leave it out")
    if split is None:
        return rows
    if not there:  # one table for each split
        return [replace(row, split=split) for row in rows]
    if split not in there:
        raise InputError(f"split {split}: no clip is in it; give one of {', '.join(there)}")
    return [row for row in rows if row.split == split]


@dataclass(frozen=True)
class _Clip:
    """A usable clip: its row, its file and what the file holds."""

    row: Row
    path: Path
    info: VideoInfo

    def write(self, writer: ShardWriter, labels: dict[str, int]) -> None:
        row = self.row
        about: dict[str, Any] = {"label": labels.get(row.label, -1), "path": row.path}
        about |= {name: value for name, value in (("class", row.label), ("captions", row.captions)) if value}
        writer.write(
            clip_suffix(self.path), self.path.read_bytes(), row.caption, {**about, **row.facts, **asdict(self.info)}
        )


def _usable(
    files: "_ClipFolder",
    rows: Sequence[Row],
    leave_out: Callable[[str, str], None],
    progress: Callable[[str], None],
) -> Iterator[_Clip]:
    """The clips of the rows that can be decoded, in their order."""
    for number, row in enumerate(rows, 1):
        path = files.find(row.path)
        if not path.is_file():
            leave_out("missing file", row.path)
        elif not clip_suffix(path):
            leave_out(_no_clip(path), row.path)
        else:
            try:
                yield _Clip(row, path, VideoReader(path).info)
            except VideoError as error:
                leave_out(error.reason, row.path)
        if number % 1000 == 0 or number == len(rows):
            progress(f"{number} of {len(rows)} clips")


def _no_clip(path: Path) -> str:
    """Why a file is not a clip."""
    return "still image" if path.suffix.lower() in (".png", ".webp") else "unknown suffix"


def _held_out(clips: Sequence[_Clip], share: float, seed: int) -> list[_Clip]:
    """The clips, each with the split train or test."""
    rows = [clip.row for clip in clips]
    chosen = held_out([row.path for row in rows], [row.label for row in rows], share, seed)
    splits = ("test" if number in chosen else "train" for number in range(len(rows)))
    return [replace(clip, row=replace(clip.row, split=split)) for clip, split in zip(clips, splits, strict=True)]


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
            twice = f"{place.stem} is there twice, as {found[0]} and {found[1]}"
            raise InputError(f"videos {self.folder}: {twice}; name the folder of one")
        return self.folder / found[0] if found else place

    def unused(self, known: Annotations, out: Path, used: Collection[Path]) -> Iterator[tuple[str, str]]:
        """Files in the folder that become no sample, with the reason; of a table only clips that it does not name."""
        listed = {self._name(self.folder / row.path) for row in known.rows}
        skipped = {path.resolve() for path in used} | {(self.folder / path).resolve() for path in known.read}
        no_row = "next to class folders" if known.from_folder else "not in the table"
        for path in files_below(self.folder):
            if self._name(path) in listed or not (clip_suffix(path) or known.from_folder):
                continue
            real = path.resolve()
            if real not in skipped and out.resolve() not in real.parents:
                yield no_row if clip_suffix(path) else _no_clip(path), str(path.relative_to(self.folder))

    def _name(self, path: Path) -> str:
        return path.stem if self.moved else os.path.normpath(path)

    @cached_property
    def _places(self) -> Mapping[str, Sequence[str]]:
        places = defaultdict(list)
        for path in filter(clip_suffix, files_below(self.folder)):
            places[path.stem].append(str(path.relative_to(self.folder)))
        return places
