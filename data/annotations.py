"""Annotations of clips that are to be packed: rows from tables and class folders, and where their files are.

What cannot be read is an `InputError` that names the file and the fault.
"""

import csv
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from cmd_lightning.errors import InputError
from cmd_lightning.video_io import VIDEO_SUFFIXES

ACCEPTED = (
    "give a CSV with the columns path,caption,label,split, or that of OpenVid-1M (video,caption) or of WebVid "
    "(videoid,name,page_dir), the json of MSR-VTT, or the folder ucfTrainTestlist of UCF-101"
)
_LAYOUTS: list[set[str]] = [{"path"}, {"video", "caption"}, {"videoid", "name", "page_dir"}]


@dataclass(frozen=True, slots=True)
class Row:
    """A clip; "" is for what is unknown, or none."""

    path: str  # of its file, within the folder of the clips
    caption: str = ""
    label: str = ""  # its class, by name or number
    split: str = ""
    captions: tuple[str, ...] = ()  # all that were written for it, where there are several


@dataclass(frozen=True)
class Annotations:
    """The clips of a data set."""

    rows: list[Row]
    labels: dict[str, int]  # numbers of the classes, by what rows call them
    classes: list[str]  # names by number; empty where rows name none
    moved: bool = False  # copies differ in places and formats of files, so that a file is found by its stem


def number_labels(rows: list[Row], moved: bool = False) -> Annotations:
    """Annotations whose labels keep their numbers if all are whole ones, and else count names in alphabetical order."""
    names = sorted({row.label for row in rows if row.label})
    if all(name.isdecimal() for name in names):
        return Annotations(rows, {name: int(name) for name in names}, [], moved)
    return Annotations(rows, {name: number for number, name in enumerate(names)}, names, moved)


def read_table(path: Path) -> Annotations:
    """Read a CSV of ours, of OpenVid-1M or of WebVid, by its columns; label and split may be missing from each."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, restval="")  # of a line that is short
            columns = set(reader.fieldnames or ())
            if not any(needed <= columns for needed in _LAYOUTS):
                raise InputError(f"captions {path}: no column 'path'; {ACCEPTED}")
            rows = [_row_of(cells) for cells in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"captions {path}: not a CSV in UTF-8 ({error}); save it as one") from error
    if not rows:
        raise InputError(f"captions {path}: no rows below the column names; give one a clip")
    return number_labels(rows, moved="path" not in columns)


def _row_of(cells: Mapping[str, str]) -> Row:
    def cell(column: str) -> str:
        return cells.get(column, "").strip()

    label, split = cell("label"), cell("split")
    for column in ("path", "video"):
        if column in cells:
            return Row(cell(column), cell("caption"), label, split)
    return Row(f"{cell('page_dir')}/{cell('videoid')}.mp4", cell("name"), label, split)


def walk_classes(folder: Path) -> Annotations:
    """Take the folders in a folder as classes, and their names as captions."""
    paths = [path for path in sorted(folder.glob("*/**/*")) if path.suffix.lower().lstrip(".") in VIDEO_SUFFIXES]
    if not paths:
        kinds = ", ".join("." + suffix for suffix in VIDEO_SUFFIXES)
        raise InputError(f"videos {folder}: no class folders with clips ({kinds}); give them, or a captions table")
    relative = [path.relative_to(folder) for path in paths]
    return number_labels([Row(str(path), path.parts[0].replace("_", " "), path.parts[0]) for path in relative])


def with_prompts(annotations: Annotations, path: Path) -> Annotations:
    """Caption clips by their classes, from a CSV with the columns class,prompt, or a line for each class in order."""
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


@dataclass
class ClipFolder:
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
