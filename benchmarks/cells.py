"""Measurements in cells: a call measures as many as it has time for, a JSON file keeps them, the next call continues.

Also what benchmarks share: their command lines, files of results, clocks.
"""

from __future__ import annotations

import gc
import json
import tempfile
import time
from argparse import SUPPRESS, ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import torch

from cmd_lightning.atomic_files import replaced
from cmd_lightning.commands.parser import Parser
from cmd_lightning.errors import InputError, reason
from cmd_lightning.provenance import processor, provenance

Cell = Mapping[str, Any]
"""What sets a cell apart; every row of its results has these fields."""
Rows = list[dict[str, Any]]


def measure_cells(
    cells: Sequence[Cell],
    measure: Callable[[Cell], Rows],
    record: Mapping[str, Any],
    path: Path | None = None,
    minutes: float = 8.0,
) -> dict[str, Any]:
    """Measures the cells that `path` does not hold yet, as long as there is time, and keeps each one there.

    `record`, with "settings" and the provenance, is stored next to the "rows"; a file of other settings or of another
    machine is rejected. `measure` may leave out the fields of the cell itself.
    """
    begun = time.monotonic()
    record = json.loads(json.dumps(record))
    if path:
        check_writable(path)
    result = read(path) if path and path.exists() else record | {"rows": []}
    for key in ("settings", "hardware", "versions"):
        if result.get(key) != record[key]:
            raise InputError(f"--json {path}: its results are of other {key}; give another file")
    for cell in missing(cells, result["rows"]):
        if time.monotonic() - begun > 60 * minutes:
            break
        found = [{**row, **cell} for row in measure(cell)]
        result["rows"] += json.loads(json.dumps(found))
        print(title(cell), told(found[0]), flush=True)
        if path:
            save(written(result), path)
    return result


def read(path: Path) -> dict[str, Any]:
    """The results that a file holds."""
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"--json {path}: it cannot be read ({reason(error)}); give another file") from None
    rows = result.get("rows") if isinstance(result, dict) else None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise InputError(f"--json {path}: it holds no results of a benchmark; give another file")
    return result


def check_writable(path: Path) -> None:
    """Creates the folder of a file of results and proves that it can be written, before anything is measured."""
    # Tables and images are written next to it.
    if path.suffix != ".json":
        raise InputError(f"--json {path}: give a file whose name ends in .json")
    if path.is_dir():
        raise InputError(f"--json {path}: it is a folder; give a file")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise InputError(
            f"--json {path}: it cannot be written ({error.strerror or reason(error)}); give another file"
        ) from None


def save(text: str, path: Path) -> None:
    """Writes a file in a folder that may not exist yet, or leaves the file as it was."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replaced(path) as temporary:
        temporary.write_text(text)


def written(result: Mapping[str, Any]) -> str:
    """A result as JSON, a row a line."""
    rows = ",\n".join(f"  {json.dumps(row)}" for row in result["rows"])
    about = json.dumps({name: value for name, value in result.items() if name != "rows"}, indent=1)
    return f'{about.removesuffix("}").rstrip()},\n "rows": [\n{rows}\n ]\n}}\n'


def stamped(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row with its own commit and date, as a file may hold rows of several."""
    return dict(row) | {key: provenance()[key] for key in ("commit", "date")}


def missing(cells: Sequence[Cell], rows: Rows) -> list[Cell]:
    """The cells of which there is no row."""
    return [cell for cell in cells if not any(cell.items() <= row.items() for row in rows)]


def by_name(result: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The rows of a result by the name of their cell."""
    return {row["cell"]: row for row in result["rows"]}


def title(cell: Cell) -> str:
    """A cell for people: "content; compiled; checkpointing False"."""
    return "; ".join(str(value) if isinstance(value, str) else f"{key} {value}" for key, value in cell.items())


def told(row: Mapping[str, Any]) -> str:
    """The seconds of a row, or that memory did not suffice; all of a row that is not about seconds."""
    if "seconds" not in row:
        return json.dumps(row)
    return "did not fit into memory" if row["seconds"] is None else f"{row['seconds']:.3f} s"


def closing(cells: Sequence[Cell], rows: Rows) -> str:
    """What is left for another call."""
    left = missing(cells, rows)
    return f"left for another call: {', '.join(map(title, left))}" if left else "done"


def in_turn(calls: Mapping[str, Callable[[int], float]], rounds: int) -> dict[str, list[float]]:
    """What each call returns, given the round's number; another one begins each, so that other work hits all alike."""
    names, found = list(calls), {name: [] for name in calls}
    for number in range(rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            found[name].append(calls[name](number))
    return found


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, least and most."""
    return {"median": median(values), "least": min(values), "most": max(values)}


@contextmanager
def cleared(device: torch.device) -> Iterator[None]:
    """Leaves no memory and no compiled code behind."""
    try:
        yield
    finally:
        torch.compiler.reset()
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()


def clock(device: torch.device) -> float:
    """Seconds, once the device has finished; on a CPU those of this process, all threads, so no other work counts."""
    if device.type == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def timed(call: Callable[[], object], number: int, device: torch.device) -> tuple[list[float], float | None]:
    """Seconds of each of `number` calls, waited for, and the most memory meanwhile, in GB (None on a CPU)."""
    cuda = device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    taken, begun = [], clock(device)
    for _ in range(number):
        call()
        taken.append(clock(device) - begun)
        begun += taken[-1]
    return taken, torch.cuda.max_memory_allocated() / 1e9 if cuda else None


def device_name(device: torch.device) -> str:
    """The hardware that a row was measured on; on a CPU, one thread is used."""
    return torch.cuda.get_device_name() if device.type == "cuda" else f"{processor()}, one thread"


def check_device(name: str) -> None:
    """Rejects --device cuda without a CUDA device."""
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: torch finds no such device; give cpu")


def command_line(about: str | None) -> Parser:
    """The parser of a program with this docstring."""
    return Parser(description=about, formatter_class=RawDescriptionHelpFormatter)


def add_json(parser: ArgumentParser, path: str | None, about: str = "results") -> None:
    """Adds `--json`, required without a default path, and `--out`, its former name."""
    group = parser.add_mutually_exclusive_group(required=path is None)
    shown = about if path is None else f"{about} (default: %(default)s)"
    group.add_argument("--json", type=Path, default=path and Path(path), help=shown)
    group.add_argument("--out", dest="json", metavar="JSON", type=Path, help=SUPPRESS)


def measuring(about: str | None, path: str | None, device: str = "cuda") -> Parser:
    """The parser of a program that measures cells: `--device`, `--minutes` and `--json`, with their defaults."""
    parser = command_line(about)
    parser.add_argument("--device", choices=("cpu", "cuda"), default=device, help="(default: %(default)s)")
    parser.add_argument(
        "--minutes", type=float, default=8.0, help="after which no other cell begins (default: %(default)s)"
    )
    parser.add_argument("--json", type=Path, default=path and Path(path), help="results (default: %(default)s)")
    return parser
