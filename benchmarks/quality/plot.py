"""Quality against cost: every trained system with its cost of training and sampling."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from benchmarks.cells import Rows
from benchmarks.quality.settings import PROBE, Settings
from benchmarks.quality.systems import SYSTEMS
from benchmarks.quality.tables import distance, over_seeds

Value = Callable[[Mapping[str, Any]], float | None]

FIGURES: Mapping[str, Value] = {
    "Fréchet distance, mixed": distance("mixed"),
    "kernel distance, mixed": distance("mixed", "kernel"),
    "joint accuracy, plain": lambda row: row["accuracy"],
}
MARKERS = "osD^v<"


def spent(kind: str, scale: float) -> Callable[[Mapping[str, Any]], float]:
    """What the training of a row took, of all stages."""
    return lambda row: sum(stage[kind] for stage in row["training"].values()) / scale


COSTS: Mapping[str, Callable[[Mapping[str, Any]], float]] = {
    "training, CPU minutes": spent("seconds", 60),
    "training, T multiply-adds": spent("macs", 1e12),
    "training, thousand clips": spent("samples", 1e3),
    "sampling, G multiply-adds per video": lambda row: row["sampling macs"] / 1e9,
}


def plot(rows: Rows, settings: Settings, path: Path) -> None:
    """Draw the means over seeds with 95 % intervals, and write the image.

    The first three columns have a point for each budget, sampled with the main number of steps; the last one has a line
    over the numbers of steps, after the first budget.
    """
    figure, axes = plt.subplots(len(FIGURES), len(COSTS), figsize=(15, 9.5), sharey="row", layout="constrained")
    for line, (name, value) in zip(axes, FIGURES.items(), strict=True):
        for axis, (cost, of) in zip(line, COSTS.items(), strict=True):
            sampling = cost.startswith("sampling")
            for marker, (entry, system) in zip(MARKERS, SYSTEMS.items(), strict=True):
                groups = grouped([row for row in rows if row["entry"] == entry], settings, sampling)
                points = sorted(
                    (
                        (sum(map(of, group)) / len(group), mean)
                        for group in groups
                        if (mean := over_seeds(group, value))
                    ),
                    key=lambda point: point[0],
                )
                axis.errorbar(
                    [x for x, _ in points],
                    [mean.mean for _, mean in points],
                    yerr=[mean.half if math.isfinite(mean.half) else math.nan for _, mean in points],
                    label=system.name,
                    **{"marker": marker, "linestyle": "-" if sampling else "none", "linewidth": 1, "capsize": 3},
                )
            logarithmic(axis, "x")
            if name.startswith("Fréchet"):
                logarithmic(axis, "y")
            axis.grid(alpha=0.3)
        line[0].set_ylabel(name)
    for axis, cost in zip(axes[-1], COSTS, strict=True):
        axis.set_xlabel(cost)
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(SYSTEMS))
    figure.savefig(path, dpi=110)
    plt.close(figure)


def grouped(rows: Rows, settings: Settings, sampling: bool) -> list[Rows]:
    """The rows of a system that differ in the seed alone: by sampling steps after the first budget, or by budget."""
    first, groups = next(iter(settings.budgets)), defaultdict[Any, Rows](list)
    for row in rows:
        main = row.get("sampling steps") == settings.main_steps and row["budget"] != PROBE
        if row["budget"] == first if sampling else main:
            groups[row["sampling steps"] if sampling else row["budget"]].append(row)
    return list(groups.values())


def logarithmic(axis: Any, side: str) -> None:
    """Gives an axis a logarithmic scale with plain numbers."""
    getattr(axis, f"set_{side}scale")("log")
    own = getattr(axis, f"{side}axis")
    own.set_major_locator(LogLocator(subs=(1, 2, 5)))
    own.set_major_formatter(FuncFormatter(lambda value, place: f"{value:g}"))
    own.set_minor_formatter(NullFormatter())
