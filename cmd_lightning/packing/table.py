"""Read the captions of clips from a table: columns by any common name, and a note on all that is not used."""

import csv
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from cmd_lightning.data.clips import text_of
from cmd_lightning.errors import InputError, reason

# The columns that are read, each with the names it may have; of several the first in this order is used.
_COLUMNS = {
    "path": ("path", "file", "file_name", "filename", "file_path", "filepath", "video_path"),
    "video": ("video",),
    "caption": ("caption", "captions", "text", "prompt", "description", "sentence", "title"),
    "label": ("label", "class", "class_name", "category"),
    "split": ("split", "subset", "partition"),
    "videoid": ("videoid",),
    "name": ("name",),
    "page_dir": ("page_dir",),
}
# Columns of which a table must have all of one layout: ours, that of OpenVid-1M, that of WebVid.
_LAYOUTS = (("path",), ("video",), ("videoid", "name", "page_dir"))
_DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "pipes"}
_END = "end of the table"

ACCEPTED = (
    "give a CSV, .jsonl or .parquet with the columns path,caption,label,split, or that of OpenVid-1M (video,caption) "
    "or of WebVid (videoid,name,page_dir), the json of MSR-VTT, or the folder ucfTrainTestlist of UCF-101"
)


@dataclass
class Table:
    """The cells of a table."""

    columns: set[str]  # of `_COLUMNS`
    rows: list[dict[str, str]] = field(default_factory=list)  # by column; "" where a row has no such cell
    notes: list[str] = field(default_factory=list)  # columns by other names, columns and cells that are not used


def read_table(path: Path) -> Table:
    """Read a table: .parquet, .jsonl (or .ndjson) with an object per line, or else a CSV in UTF-8.

    Raises:
        InputError: It is not such a table, or pyarrow is needed and missing.
    """
    kinds = {".parquet": _read_parquet, ".jsonl": _read_jsonl, ".ndjson": _read_jsonl}
    table = kinds.get(path.suffix.lower(), _read_csv)(path)
    if not table.rows:
        raise InputError(f"captions {path}: no rows below the column names; give one per clip")
    return table


def _read_jsonl(path: Path) -> Table:
    rows: list[Mapping[str, Any]] = []
    try:
        with path.open(encoding="utf-8-sig") as file:
            rows.extend(dict(json.loads(line)) for line in file if line.strip())
    except (ValueError, TypeError, RecursionError) as error:
        problem = f"captions {path}, object {len(rows) + 1}: not a JSON object in UTF-8"
        raise InputError(f'{problem}; write one per line, as {{"path": "a.mp4", "caption": "..."}}') from error
    return _of_objects(path, list(dict.fromkeys(name for row in rows for name in row)), lambda names: rows)


def _read_parquet(path: Path) -> Table:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError as error:
        remedy = "pip install 'cmd-lightning[parquet]', or save the table as .csv"
        raise InputError(f"captions {path}: reading .parquet needs pyarrow; {remedy}") from error
    try:
        file = parquet.ParquetFile(path)
        return _of_objects(path, file.schema_arrow.names, lambda names: file.read(names).to_pylist())
    except (ArrowException, OSError) as error:
        raise InputError(f"captions {path}: not readable as .parquet ({reason(error)}); write it again") from error


def _of_objects(path: Path, header: Sequence[str], read: Callable[[list[str]], Sequence[Mapping[str, Any]]]) -> Table:
    """The table of rows by the names in the header; `read` gives those with some of the names."""
    places = _expect_places(path, header)
    names = {column: header[place] for column, place in places.items()}
    rows = [{column: text_of(row.get(name)) for column, name in names.items()} for row in read(list(names.values()))]
    return Table(set(places), rows, _notes(path, header, places, ","))


def _read_csv(path: Path) -> Table:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file, _long_cells():
            first = file.readline()
            delimiter = next((mark for mark in _DELIMITERS if _places(next(_cells([first], mark), []))), ",")
            file.seek(0)
            return _read_lines(path, chain(file, ["\n", _END]), delimiter)
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"captions {path}: not a CSV in UTF-8 ({error}); save it as one") from error


def _read_lines(path: Path, lines: Iterator[str], delimiter: str) -> Table:
    reader = _cells(lines, delimiter)
    header: list[str] = next((row for row in reader if any(row)), [])
    places = _expect_places(path, header)
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


def _cells(lines: Iterable[str], delimiter: str) -> Any:
    return csv.reader(lines, delimiter=delimiter, skipinitialspace=True)


def _expect_places(path: Path, header: Sequence[str]) -> dict[str, int]:
    places = _places(header)
    if not places:
        there = ", ".join(cell.strip() for cell in header if cell != _END) or "none"
        raise InputError(f"captions {path}: no column 'path' (there are: {there[:200]}); {ACCEPTED}")
    return places


def _places(header: Sequence[str]) -> dict[str, int]:
    """Where each column of the layout is, whatever its name and the case and space around it; empty for no layout."""
    cells = [cell.strip().lower() for cell in header]
    found = {column: next((name for name in names if name in cells), "") for column, names in _COLUMNS.items()}
    layout = next((layout for layout in _LAYOUTS if all(found[column] for column in layout)), None)
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
