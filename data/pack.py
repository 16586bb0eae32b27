"""Pack clips that lie in folders into shards, byte for byte as they are."""

import csv
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cmd_lightning.data.shards import ShardWriter, split_folder
from cmd_lightning.errors import InputError
from cmd_lightning.video_file import VideoError
from cmd_lightning.video_io import VIDEO_SUFFIXES, probe


@dataclass(frozen=True)
class _Row:
    path: str
    caption: str = ""
    label: str = ""
    split: str = ""


def pack_clips(
    videos: str | Path,
    out: str | Path,
    captions: str | Path | None = None,
    *,
    shard_size: int = 1000,
    split: str | None = None,
    progress: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Pack the clips of a table, or of class folders; unreadable ones are left out and counted.

    Labels that are all whole numbers are kept; names are numbered in the order of the alphabet, over all
    splits.

    Args:
        videos: folder of the clips.
        out: folder for the shards; rows with a split go to a folder of that name in it.
        captions: CSV with the columns path, caption, label, split (all but path may be missing); None takes
            the folders in `videos` as classes.
        shard_size: clips in a shard.
        split: pack only the rows of this split; where no row has one, the split of all.
        progress: told a line now and then.

    Returns:
        {"samples": number packed, "bad": {reason: number}, "splits": {folder: number}, "classes": [names]}.

    Raises:
        InputError: something is missing, or no clip is left.
    """
    folder = Path(videos)
    if not folder.is_dir():
        raise InputError(f"videos {videos}: no such folder; name the folder that holds the clips")
    rows = _read_table(Path(captions)) if captions else _walk_classes(folder)
    label_of, classes = _number_labels([row.label for row in rows])
    if split is not None:
        if not any(row.split for row in rows):  # one table for each split
            rows = [replace(row, split=split) for row in rows]
        rows = [row for row in rows if row.split == split]
        if not rows:
            raise InputError(f"split {split}: no row of {captions} has it; see its column 'split'")

    bad: Counter[str] = Counter()
    made: Counter[str] = Counter()
    with ExitStack() as stack:
        writers = {
            name: stack.enter_context(ShardWriter(split_folder(out, name), shard_size, classes))
            for name in dict.fromkeys(row.split for row in rows)
        }
        for number, row in enumerate(rows, 1):
            if reason := _pack_one(folder / row.path, row, label_of, writers[row.split]):
                bad[reason] += 1
                progress(f"left out, {reason}: {row.path}")
            else:
                made[row.split] += 1
            if number % 1000 == 0 or number == len(rows):
                progress(f"{number} of {len(rows)} clips")
        if not made:
            raise InputError(f"videos {videos}: not one of {len(rows)} clips is usable ({dict(bad)}); see the paths")
    return {
        "samples": sum(made.values()),
        "bad": dict(bad),
        "splits": {str(Path(out, name)): count for name, count in made.items()},
        "classes": classes,
    }


def _pack_one(path: Path, row: _Row, label_of: dict[str, int], writer: ShardWriter) -> str | None:
    suffix = path.suffix.lower().lstrip(".")
    if suffix not in VIDEO_SUFFIXES:
        return "unknown suffix"
    if not path.is_file():
        return "missing file"
    data = path.read_bytes()
    try:
        info = probe(data)
    except VideoError as error:
        return error.reason
    about: dict[str, Any] = {"label": label_of.get(row.label, -1), "path": row.path}
    if row.label:
        about["class"] = row.label
    about |= {"frames": info.frames, "fps": info.fps, "width": info.width, "height": info.height}
    writer.write(suffix, data, row.caption, about)
    return None


def _read_table(path: Path) -> list[_Row]:
    if not path.is_file():
        raise InputError(f"captions {path}: no such file; name a CSV with the columns path,caption,label,split")
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"captions {path}: not a CSV in UTF-8 ({error}); save it as one") from error
    if not rows or "path" not in rows[0]:
        raise InputError(f"captions {path}: no rows with a column 'path'; columns are path,caption,label,split")
    names = ("path", "caption", "label", "split")
    return [_Row(**{name: (row.get(name) or "").strip() for name in names}) for row in rows]


def _walk_classes(folder: Path) -> list[_Row]:
    paths = [path for path in sorted(folder.glob("*/**/*")) if path.suffix.lower().lstrip(".") in VIDEO_SUFFIXES]
    if not paths:
        kinds = ", ".join("." + suffix for suffix in VIDEO_SUFFIXES)
        raise InputError(f"videos {folder}: no class folders with clips ({kinds}); give them, or a --captions table")
    relative = [path.relative_to(folder) for path in paths]
    return [_Row(str(path), path.parts[0].replace("_", " "), path.parts[0]) for path in relative]


def _number_labels(labels: list[str]) -> tuple[dict[str, int], list[str]]:
    names = sorted({label for label in labels if label})
    if all(name.isdecimal() for name in names):
        return {name: int(name) for name in names}, []
    return {name: number for number, name in enumerate(names)}, names
