"""What is said of clips before they are packed: rows from tables and class folders, and where their files lie."""

import csv
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from cmd_lightning.errors import InputError
from cmd_lightning.video_io import VIDEO_SUFFIXES

ACCEPTED = (
    "give a CSV with the columns path,caption,label,split, or that of OpenVid-1M (video,caption) or of WebVid "
    "(videoid,name,page_dir), the json of MSR-VTT, or the folder ucfTrainTestlist of UCF-101"
)


@dataclass(frozen=True, slots=True)
class Row:
    """A clip.

    Attributes:
        path: its file, within the folder of the clips.
        caption: what it shows; "" if nothing tells.
        label: its class, by name or number; "" for none.
        split: the part of the data that it belongs to; "" for none.
        captions: all that were written for it, where there are several.
    """

    path: str
    caption: str = ""
    label: str = ""
    split: str = ""
    captions: tuple[str, ...] = ()


@dataclass(frozen=True)
class Annotations:
    """The clips of a data set.

    Attributes:
        rows: its clips.
        labels: numbers of the classes, by what rows call them.
        classes: names of the classes by number; empty where rows name none.
        moved: whether copies differ in where files lie and in their format, so that they go by the stem of their name.
    """

    rows: list[Row]
    labels: dict[str, int]
    classes: list[str]
    moved: bool = False


def number_labels(rows: list[Row], moved: bool = False) -> Annotations:
    """Annotations whose labels keep their numbers if all are whole ones, and else count names in alphabetical order."""
    names = sorted({row.label for row in rows if row.label})
    if all(name.isdecimal() for name in names):
        return Annotations(rows, {name: int(name) for name in names}, [], moved)
    return Annotations(rows, {name: number for number, name in enumerate(names)}, names, moved)


def read_table(path: Path) -> Annotations:
    """Read a CSV of ours, of OpenVid-1M or of WebVid, told by its columns; label and split may be missing from each.

    Raises:
        InputError: it is none of these, has no rows, or is no CSV in UTF-8.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            columns = reader.fieldnames or ()
            if not ({"path"} <= {*columns} or {"video", "caption"} <= {*columns} or {*_WEBVID} <= {*columns}):
                raise InputError(f"captions {path}: no column 'path'; {ACCEPTED}")
            rows = [_row_of(cells, columns) for cells in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"captions {path}: not a CSV in UTF-8 ({error}); save it as one") from error
    if not rows:
        raise InputError(f"captions {path}: no rows below the column names; give one a clip")
    return number_labels(rows, moved="path" not in columns)


_WEBVID = ("videoid", "name", "page_dir")


def _row_of(cells: Mapping[str, str | None], columns: Sequence[str]) -> Row:
    def cell(column: str) -> str:
        return (cells.get(column) or "").strip()  # None where a line is short

    if "path" in columns:
        path, caption = cell("path"), cell("caption")
    elif "video" in columns:
        path, caption = cell("video"), cell("caption")
    else:
        path, caption = f"{cell('page_dir')}/{cell('videoid')}.mp4", cell("name")
    return Row(path, caption, cell("label"), cell("split"))


def walk_classes(folder: Path) -> Annotations:
    """Take the folders in a folder as classes, and their names as captions.

    Raises:
        InputError: no clip lies in any.
    """
    paths = [path for path in sorted(folder.glob("*/**/*")) if path.suffix.lower().lstrip(".") in VIDEO_SUFFIXES]
    if not paths:
        kinds = ", ".join("." + suffix for suffix in VIDEO_SUFFIXES)
        raise InputError(f"videos {folder}: no class folders with clips ({kinds}); give them, or a --captions table")
    relative = [path.relative_to(folder) for path in paths]
    return number_labels([Row(str(path), path.parts[0].replace("_", " "), path.parts[0]) for path in relative])


def with_prompts(annotations: Annotations, path: Path) -> Annotations:
    """The same clips, captioned by their classes.

    Args:
        annotations: clips with classes.
        path: a CSV with the columns class,prompt, or a text file with a prompt a line, in the order of the classes.

    Raises:
        InputError: the clips have no classes by name, or a class has no prompt, or two.
    """
    if not annotations.classes:
        raise InputError(f"prompts {path}: the clips have no classes by name; leave it out, or give such clips")
    if not path.is_file():
        raise InputError(f"prompts {path}: no such file; give a CSV class,prompt, or a prompt a line for each class")
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = [line.strip() for line in file if line.strip()]
    except UnicodeDecodeError:
        raise InputError(f"prompts {path}: not text in UTF-8; save it as that") from None
    prompts = _prompts_by_class(lines, annotations.classes, path)
    rows = [replace(row, caption=prompts.get(row.label, row.caption)) for row in annotations.rows]
    return replace(annotations, rows=rows)


def _prompts_by_class(lines: list[str], classes: list[str], path: Path) -> dict[str, str]:
    named = sum(line.partition(",")[0].strip('" ') in classes for line in lines)
    headed = [cell.strip().lower() for cell in "".join(lines[:1]).split(",")] == ["class", "prompt"]
    lines = lines[headed:]
    if not headed and named <= len(lines) / 2:  # a prompt may begin with the name of a class
        if len(lines) != len(classes):
            raise InputError(f"prompts {path}: {len(lines)} lines for {len(classes)} classes; give one each, in order")
        return dict(zip(classes, lines, strict=True))
    pairs = [[cell.strip() for cell in cells] for cells in csv.reader(lines, skipinitialspace=True)]
    for cells in pairs:
        if len(cells) != 2 or cells[0] not in classes or not cells[1]:
            raise InputError(
                f"prompts {path}: '{','.join(cells)[:80]}' is not a class of the clips and its prompt; write "
                f'{classes[0]},"a prompt, in quotes if it has commas"'
            )
    prompts = dict(pairs)
    if len(pairs) != len(classes) or len(prompts) != len(classes):
        odd = next((name for name in classes if [cells[0] for cells in pairs].count(name) != 1), "")
        raise InputError(f"prompts {path}: class {odd} has no prompt, or two; give each of {len(classes)} classes one")
    return prompts


class ClipFolder:
    """Where the files of rows lie.

    Args:
        folder: the folder of the clips.
        moved: whether a file that is not at its path may lie anywhere in the folder, in any format.
    """

    def __init__(self, folder: Path, moved: bool) -> None:
        self.folder = folder
        self._moved = moved

    def find(self, path: str) -> Path:
        """The file of a row, or where it would lie if it were there.

        Raises:
            InputError: it lies there twice.
        """
        place = self.folder / path
        if not self._moved or place.is_file():
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
