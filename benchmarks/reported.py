"""What the paper reports, as data: `benchmarks/reported.yaml`, a figure at a time.

    reported("LVDM", "seconds", table=9, steps=50).value         # 24.2
    reported("CMD", "tmacs_paper", table=8, component="motion")  # Figure(system='CMD', quantity='tmacs_paper', ...)
    figures(table=9, system="CMD")                               # all six of them

Quantities are named as in the rows of `benchmarks.efficiency`: `tmacs_paper` (T multiply-adds, attention left out),
`seconds`, `memory_gb`, `params` (here in B), and `fvd`, `clipsim`. Tables are 1, 2, 3, "4a", "4b", "4c", 8, 9, 10, 11,
"text" and "abstract". What tells figures of a table apart is in `at`: table 8 has `component` (of CMD autoencoder,
content, motion; else diffusion), table 9 `steps` (50, 100; no memory) and `batch` (1; memory 1, 4), tables 3 and 11
`guidance`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from cmd_lightning.errors import InputError

FILE = Path(__file__).with_name("reported.yaml")


@dataclass(frozen=True)
class Figure:
    """A figure of the paper.

    Attributes:
        system: Whose it is, "CMD" for the paper's own.
        quantity: What it is of.
        value: As printed, in `unit`.
        unit: "" for a pure number.
        table: Of the paper: its number, with a letter for a part, or "text", "abstract".
        protocol: How it was measured, as far as the paper says.
        at: What else tells it apart, e.g. `{"steps": 50, "batch": 1}`.
        spread: What stands after ±.
        remark: What to know of it.
    """

    system: str
    quantity: str
    value: float
    unit: str
    table: str
    protocol: str
    at: dict[str, Any]
    spread: float | None = None
    remark: str = ""


def _without(mapping: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in mapping.items() if key not in keys}


@cache
def _read() -> tuple[Figure, ...]:
    """All figures of the file, in its order."""
    return tuple(
        Figure(
            system=row["system"],
            quantity=column["quantity"],
            value=float(value),
            unit=column.get("unit", ""),
            table=str(table["table"]),
            protocol=table["protocol"],
            at=_without(row, "system", "values", "spread", "remark") | _without(column, "quantity", "unit"),
            spread=row.get("spread"),
            remark=row.get("remark", ""),
        )
        for table in yaml.safe_load(FILE.read_text(encoding="utf-8"))
        for row in table["rows"]
        for column, value in zip(table["columns"], row["values"], strict=True)
    )


def figures(
    table: int | str | None = None, system: str | None = None, quantity: str | None = None, **at: Any
) -> list[Figure]:
    """The figures of a table, a system and a quantity, all by default, with these values of `at`."""
    return [
        figure
        for figure in _read()
        if table is None or str(table) == figure.table
        if system in (None, figure.system) and quantity in (None, figure.quantity)
        if at.items() <= figure.at.items()
    ]


def reported(system: str, quantity: str, *, table: int | str, **at: Any) -> Figure:
    """The one figure of a system in a table; `at` tells it apart from others of that table.

    Raises:
        InputError: There is none, or several.
    """
    found = figures(table, system, quantity, **at)
    if len(found) != 1:
        asked = ", ".join([system, quantity, *(f"{key}={value}" for key, value in at.items())])
        choices = "; ".join(str(figure.at) for figure in found or figures(table, system, quantity)) or "none"
        raise InputError(f"reported: table {table} has {len(found)} figures of {asked}; there are: {choices}")
    return found[0]
