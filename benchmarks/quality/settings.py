"""The budgets of all systems, and how their videos are measured; rows of results, by their settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from benchmarks.cells import Rows
from benchmarks.quality.ablations import SAMPLES
from benchmarks.quality.budgets import Budget

PROBE = "probe"
"""The budget by which the size of a system is chosen."""
MAIN_STEPS = 16
"""Sampling steps per stage of the tables."""


@dataclass(frozen=True)
class Settings:
    """What is measured, and how.

    Attributes:
        num: Videos of a measurement.
        steps: Sampling steps per stage; those of a cell that are in `main_steps` have more figures.
        main_steps: Sampling steps of the probe, of the table and of table 4.
        probe: What each size of a system may spend.
        budgets: What the chosen size may spend, by name.
        ablation: Clips of each stage of a row of table 4.
        batch: Clips per step in the place of the systems' own.
    """

    num: int = 128
    steps: tuple[int, ...] = (4, 8, 16, 50)
    main_steps: int = MAIN_STEPS
    probe: Budget = field(default_factory=lambda: Budget("seconds", 600))
    budgets: Mapping[str, Budget] = field(
        default_factory=lambda: {
            "one core-hour": Budget("seconds", 3_600),
            "100 T multiply-adds": Budget("macs", 1e14),
            "24,000 samples": Budget("samples", 24_000),
            "three core-hours": Budget("seconds", 10_800),
        }
    )
    ablation: Mapping[str, int] = field(default_factory=lambda: SAMPLES)
    batch: int | None = None


def of_entry(rows: Rows, entry: str, **at: Any) -> Rows:
    """The rows of an entry with these values."""
    return [row for row in rows if row["entry"] == entry and at.items() <= row.items()]
