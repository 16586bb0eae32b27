"""The paper's tables: requirements, what is available, and each figure as reported, as measured, or what is missing.

    python -m benchmarks.reproduce              # all tables
    python -m benchmarks.reproduce --table 4    # 1, 2, 3, 4, 8, 9, 10 or 11

A figure whose needs are all here is measured now, by the command that is printed, and kept in outputs/reproduce or
benchmarks/results; `--list` measures nothing. Trainings are never started: the commands at the end get what is missing,
train, and come back here. Counts take some seconds on a CPU. What is measured has the paper's protocol and number of
clips: nothing at a smaller scale, or on other features than the I3D's, is in that column.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from benchmarks.cells import command_line
from benchmarks.ledger import agrees
from benchmarks.reported import Figure
from benchmarks.reproduce.needs import NEEDS, TFLOPS
from benchmarks.reproduce.rows import Row, figures_of, row_of
from cmd_lightning.errors import InputError, program
from cmd_lightning.markdown import aligned, table

TABLES = ("1", "2", "3", "4", "8", "9", "10", "11")
AFTER = "python -m benchmarks.reproduce --table {}"
NAMES = {"fvd": "FVD", "clipsim": "CLIPSIM", "tmacs_paper": "T multiply-adds", "seconds": "seconds"}
NAMES |= {"memory_gb": "memory, GB", "params": "parameters, B"}
OTHERS = "nothing: of another system, nothing here measures it"


def title(figure: Figure) -> str:
    """A figure for people: "CMD, FVD, no zero shot, videos 2048"."""
    told = []
    for name, value in figure.at.items():
        text = name.replace("_", " ")
        told.append(
            {True: text, False: f"no {text}"}[value]
            if isinstance(value, bool)
            else f"{text} {value:g}"
            if isinstance(value, float)
            else f"{text} {value}"
        )
    return ", ".join([figure.system, NAMES[figure.quantity], *told])


def tolerance(figure: Figure, row: Row | None) -> float | None:
    """How far a measured value may be from the reported one; None where neither gives one."""
    if figure.spread is not None:
        return figure.spread
    return None if row is None or row.tolerance is None else row.tolerance * figure.value


def line(figure: Figure, list_only: bool) -> Sequence[object]:
    """The line of a figure."""
    row = row_of(figure)
    allowed = tolerance(figure, row)
    shown = None if allowed is None else f"± {allowed:.2g}"
    clips = f"{row.clips:,}" if row and row.clips else None
    found = None if row is None or (list_only and row.read == "counts") else row.measured(figure)
    if found is None:
        missing = OTHERS if row is None else ", ".join(row.missing()) or "not measured yet"
        return (title(figure), f"{figure.value:g}", shown, clips, None, None, None, missing)
    value = f"{found.value:.4g}" + (f" on {found.where}" if found.where else "")
    within = None
    if allowed is not None:
        near = abs(found.value - figure.value) <= allowed or agrees(found.value, figure.value)
        within = "yes" if near else "no"
    return (title(figure), f"{figure.value:g}", shown, clips, value, found.clips or None, within, None)


HEAD = ("figure", "reported", "tolerance", "clips, paper", "measured", "clips", "within", "missing")


def rows_of(number: str) -> list[Row]:
    """The rows that measure figures of a table, each once."""
    found = [row for figure in figures_of(number) if (row := row_of(figure))]
    return [row for place, row in enumerate(found) if row not in found[:place]]


def measure(number: str) -> None:
    """Measures what can be measured and has not been."""
    for row in rows_of(number):
        waiting = any(row_of(figure) is row and row.measured(figure) is None for figure in figures_of(number))
        if row.command and waiting and not row.missing():
            row.run()


def needs_table(number: str) -> str:
    """What the rows of a table need, what of it is here, and how to get it."""
    names = dict.fromkeys(name for row in rows_of(number) for name in row.needs)
    lines = []
    for name in names:
        need = NEEDS[name]
        hours = None if need.hours is None else f"{need.hours:g}; {need.paper}"
        lines.append((name, need.what, "here" if need.found() else "missing", need.checksum or None, hours))
    return table(("needs", "what", "", "checksum", f"GPU hours at {TFLOPS} TFLOP/s; in the paper"), lines)


def command(row: Row) -> str:
    """One command that gets what a row lacks, trains, and measures it."""
    missing = [NEEDS[name].get for name in row.missing()]
    notes = [text for text in missing if text.startswith("#")]
    steps = [text for text in missing if not text.startswith("#")]
    return "\n".join([*notes, " && ".join([*steps, AFTER.format(row.table.rstrip("abc"))])])


def report(number: str, list_only: bool) -> str:
    """All that is known of a table."""
    parts = [f"Table {number}"]
    for name in dict.fromkeys(figure.table for figure in figures_of(number)):
        protocol = next(figure.protocol for figure in figures_of(number) if figure.table == name)
        parts.append(f"The paper's protocol ({name}): {protocol}.")
    rows = rows_of(number)
    parts += [f"Here: {text}." for text in dict.fromkeys(row.protocol for row in rows)]
    if any(row.needs for row in rows):
        parts.append(aligned(needs_table(number)))
    parts.append(aligned(table(HEAD, [line(figure, list_only) for figure in figures_of(number)])))
    waiting: dict[str, list[str]] = defaultdict(list)
    for figure in figures_of(number):
        if (row := row_of(figure)) and row.missing():
            waiting[command(row)].append(title(figure))
    if waiting:
        parts.append("One command for what is missing (bash; lines that begin with # are for you):")
        parts += [f"# {'; '.join(titles)}\n{text}" for text, titles in waiting.items()]
    return "\n\n".join(parts)


def main() -> int:
    """The command line."""
    parser = command_line(__doc__)
    parser.add_argument("--table", help=f"of the paper: {', '.join(TABLES)} (default: all)")
    parser.add_argument("--list", action="store_true", help="measure and count nothing")
    options = parser.parse_args()
    if options.table not in (None, *TABLES):
        raise InputError(f"--table {options.table}: there is no such table of figures; give {', '.join(TABLES)}")
    for number in TABLES if options.table is None else (options.table,):
        if not options.list:
            measure(number)
        print(report(number, options.list) + "\n", flush=True)
    return 0


if __name__ == "__main__":
    program(main)
