"""Ratios between systems: of seconds, of multiply-adds, and so of how well each uses the device."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from benchmarks.efficiency.rows import Row

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
