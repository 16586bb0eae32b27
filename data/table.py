"""Read the captions of clips from a CSV file: columns by any common name, and a note on all that is not used."""

import csv
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

from cmd_lightning.errors import InputError

COLUMNS = {
    "path": ("path", "file_name", "filename", "file_path", "filepath", "video_path"),
    "video": ("video",),
    "caption": ("caption", "captions", "text", "prompt", "description", "sentence", "title"),
    "label": ("label", "class", "class_name", "category"),
    "split": ("split", "subset", "partition"),
    "videoid": ("videoid",),
    "name": ("name",),
    "page_dir": ("page_dir",),
}
"""The columns that are read, each with the names it may have; of several the first in this order is taken."""

LAYOUTS = (("path",), ("video",), ("videoid", "name", "page_dir"))
"""Columns of which a table must have all of one layout: ours, that of OpenVid-1M, that of WebVid."""

_DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs"}
_END = "end of the table"


@dataclass
class Table:
    """The cells of a table.

    Attributes:
        columns: The columns that it has, of `COLUMNS`.
        rows: By column; "" where a row has no such cell.
        notes: What a user should know: columns by other names, columns and cells that are not used.
    """

    columns: set[str]
    rows: list[dict[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def read_csv(path: Path, accepted: str) -> Table:
    """Read a table in one of the `LAYOUTS`; cells are separated by commas, semicolons or tabs.

    Args:
        path: The file, in UTF-8.
        accepted: What to give instead, for errors.

    Raises:
        InputError: It is not such a table.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file, _long_cells():
            first = file.readline()
            delimiter = next((mark for mark in _DELIMITERS if _places(_header(first, mark))), ",")
            file.seek(0)
            return _read(path, chain(file, ["\n", _END]), delimiter, accepted)
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"captions {path}: not a CSV in UTF-8 ({error}); save it as one") from error


def _read(path: Path, lines: Iterator[str], delimiter: str, accepted: str) -> Table:
    reader = csv.reader(lines, delimiter=delimiter, skipinitialspace=True)
    header = next((row for row in reader if any(row)), [])
    places = _places(header)
    if not places:
        there = ", ".join(cell.strip() for cell in header if cell != _END) or "none"
        raise InputError(f"captions {path}: no column 'path' (there are: {there[:200]}); {accepted}")
    table = Table(set(places), notes=_notes(path, header, places, delimiter))
    surplus: list[int] = []
    last = begin = reader.line_num + 1
    cells: list[str] = []
    for cells in reader:
        if any(cells) and cells != [_END]:
            padded = cells + [""] * len(header)  # of a row that is short
            table.rows.append({column: padded[place].strip() for column, place in places.items()})
            if any(cell.strip() for cell in cells[len(header) :]):
                surplus.append(begin)
            last = begin
        begin = reader.line_num + 1
    if cells != [_END]:
        raise InputError(f"captions {path}, line {last}: a quotation mark is opened and not closed; close or double it")
    if surplus:
        table.notes.append(
            f"captions {path}: {len(surplus)} rows have more cells than the header, the first is line {surplus[0]}; "
            f"the extra cells are not used; put texts that contain {_DELIMITERS[delimiter]} in quotation marks"
        )
    return table


def _header(line: str, delimiter: str) -> list[str]:
    return next(csv.reader([line], delimiter=delimiter, skipinitialspace=True), [])


def _places(header: Sequence[str]) -> dict[str, int]:
    """Where each column of the layout is, whatever its name and the case and space around it; empty for no layout."""
    cells = [cell.strip().lower() for cell in header]
    found = {column: next((name for name in names if name in cells), "") for column, names in COLUMNS.items()}
    layout = next((layout for layout in LAYOUTS if all(found[column] for column in layout)), None)
    used = (*layout, "caption", "label", "split") if layout else ()
    return {column: cells.index(found[column]) for column in used if found[column]}


def _notes(path: Path, header: Sequence[str], places: dict[str, int], delimiter: str) -> list[str]:
    notes = [] if delimiter == "," else [f"captions {path}: cells are separated by {_DELIMITERS[delimiter]}"]
    notes += [
        f"captions {path}: column '{header[place]}' is read as {column}"
        for column, place in places.items()
        if header[place] != column
    ]
    unused = [f"'{cell}'" for place, cell in enumerate(header) if place not in places.values() and cell.strip()]
    if unused:
        notes.append(f"captions {path}: columns that are not used: {', '.join(unused)}")
    return notes


@contextmanager
def _long_cells() -> Iterator[None]:
    """Lets cells have any length: Python's csv stops at 131,072 characters."""
    before = csv.field_size_limit(sys.maxsize)
    try:
        yield
    finally:
        csv.field_size_limit(before)
