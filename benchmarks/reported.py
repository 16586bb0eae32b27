"""The paper's figures as data: `benchmarks/reported.yaml`, one figure at a time.

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


@dataclass(frozen=True)
class Figure:
    """A figure of the paper."""

    system: str  # whose it is, "CMD" for the paper's own
    quantity: str
    value: float  # as printed, in `unit`
    table: str  # its number, with a letter for a part, or "text", "abstract"
    protocol: str  # how it was measured, as far as the paper says
    at: dict[str, Any]  # what else tells it apart, e.g. `{"steps": 50, "batch": 1}`
    unit: str = ""  # "" for a pure number
    spread: float | None = None  # what stands after ±
    remark: str = ""  # what to know of it


@cache
def _read() -> tuple[Figure, ...]:
    """All figures of the file, in its order."""
    found = []
    for table in yaml.safe_load(Path(__file__).with_name("reported.yaml").read_text(encoding="utf-8")):
        for row in table["rows"]:
            for column, value in zip(table["columns"], row["values"], strict=True):
                at = {key: given for key, given in (row | column).items() if key != "values"}
                known = {key: at.pop(key) for key in ("system", "quantity", "unit", "spread", "remark") if key in at}
                found.append(
                    Figure(value=float(value), table=str(table["table"]), protocol=table["protocol"], at=at, **known)
                )
    return tuple(found)


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
    """The one figure of a system in a table; `at` tells it apart from others of that table."""
    found = figures(table, system, quantity, **at)
    if len(found) != 1:
        asked = ", ".join([system, quantity, *(f"{key}={value}" for key, value in at.items())])
        choices = "; ".join(str(figure.at) for figure in found or figures(table, system, quantity)) or "none"
        raise InputError(f"reported: table {table} has {len(found)} figures of {asked}; there are: {choices}")
    return found[0]
