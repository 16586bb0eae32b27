"""Ratios between systems, of seconds, of multiply-adds and so of how well each uses the device; the paper's four."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from benchmarks.efficiency.counts import NONE
from benchmarks.efficiency.rows import TABLE_9
from benchmarks.reported import reported
from cmd_lightning.errors import InputError

Row = dict[str, Any]
Value = Callable[[str, str], float | None]
"""A quantity of a system, of 50 steps and batch 1, or None where there is none."""

SAME = ("resolution", "steps", "batch", "guidance", "compiled", "dtype", "decoder", "device")
"""What two rows must share to be compared."""


@dataclass(frozen=True)
class Ratio:
    """How many times as much `system` takes as `base`.

    Attributes:
        base: the system that is divided by.
        system: the system that is compared with it.
        at: what their rows share.
        seconds: ratio of the time of a video.
        tmacs: ratio of its multiply-adds, all of them.
        tmacs_paper: likewise in the paper's counting.
    """

    base: str
    system: str
    at: Row
    seconds: float
    tmacs: float
    tmacs_paper: float

    @property
    def utilisation(self) -> float:
        """Multiply-adds a second of `base` over those of `system`: the part of the saving that arrives as time."""
        return self.seconds / self.tmacs

    @property
    def utilisation_paper(self) -> float:
        """Likewise in the paper's counting."""
        return self.seconds / self.tmacs_paper


def pairs(rows: Iterable[Row]) -> list[Ratio]:
    """The ratios of every two systems in every cell that both were timed in, the first system of the rows as base."""
    cells: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
    for row in rows:
        if row["component"] == "video" and row["seconds"] is not None:
            cells[tuple(row[key] for key in SAME)].append(row)
    return [
        Ratio(
            base["system"],
            other["system"],
            dict(zip(SAME, cell, strict=True)),
            *(other[key] / base[key] for key in ("seconds", "tmacs", "tmacs_paper")),
        )
        for cell, found in cells.items()
        for base, other in combinations(found, 2)
    ]


def _mean_of_both(of: Value, quantity: str) -> float:
    return (of("ModelScope", quantity) + of("LVDM", quantity)) / 2


@dataclass(frozen=True)
class Headline:
    """A ratio that the paper claims.

    Attributes:
        printed: as the paper has it, and in its unit.
        definition: what it is a ratio of, which the paper does not say: it fits to the printed digits.
        ratio: the definition as arithmetic, in the unit of `printed`.
    """

    printed: str
    definition: str
    ratio: Callable[[Value], float]


HEADLINES = (
    Headline("7.7x", "LVDM's seconds over CMD's", lambda of: of("LVDM", "seconds") / of("CMD", "seconds")),
    Headline("11.2x", "ModelScope's seconds over CMD's", lambda of: of("ModelScope", "seconds") / of("CMD", "seconds")),
    Headline(
        "16.7x",
        "mean of ModelScope's and LVDM's multiply-adds, as the paper counts, over CMD's",
        lambda of: _mean_of_both(of, "tmacs_paper") / of("CMD", "tmacs_paper"),
    ),
    Headline(
        "66 %",
        "CMD's memory over the mean of ModelScope's and LVDM's",
        lambda of: 100 * of("CMD", "memory_gb") / _mean_of_both(of, "memory_gb"),
    ),
)
"""All of a sample at 512x1024, 50 steps, batch 1, no guidance, without the frame decoder (table 9)."""


def from_paper(headline: Headline) -> float:
    """The ratio from the figures that the paper reports in its table 9."""

    def of(system: str, quantity: str) -> float:
        at = {"batch": 1} if quantity == "memory_gb" else {"batch": 1, "steps": 50}
        return reported(system, quantity, table=9, **at).value

    return headline.ratio(of)


def from_rows(headline: Headline, rows: Iterable[Row], compiled: bool | None = False) -> float | None:
    """The ratio from rows, or None where one that it needs is missing; `compiled` is None for counted rows."""
    rows = list(rows)

    def of(system: str, quantity: str) -> float:
        wanted = {"system": system, "component": "video", "resolution": TABLE_9, "steps": 50, "batch": 1}
        wanted |= {"guidance": False, "compiled": compiled, "decoder": NONE}
        for row in rows:
            if wanted.items() <= row.items() and row[quantity] is not None:
                return row[quantity]
        raise LookupError(system, quantity)

    try:
        return headline.ratio(of)
    except LookupError:
        return None


def base_of(rows: Iterable[Row]) -> str:
    """The first system of the rows, with which the others are compared.

    Raises:
        InputError: there are no rows.
    """
    for row in rows:
        return row["system"]
    raise InputError("--json: no cell has been measured; give more --minutes")
