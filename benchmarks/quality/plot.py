"""The frontier of quality and cost: every trained system against what its training and its sampling took."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot as plt

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
    first = next(iter(settings.budgets))
    figure, axes = plt.subplots(len(FIGURES), len(COSTS), figsize=(15, 9.5), sharey="row", layout="constrained")
    for line, (name, value) in zip(axes, FIGURES.items(), strict=True):
        for place, (axis, (cost, of)) in enumerate(zip(line, COSTS.items(), strict=True)):
            sampling = place == len(COSTS) - 1
            for marker, (entry, system) in zip(MARKERS, SYSTEMS.items(), strict=True):
                groups: dict[Any, Rows] = {}
                for row in rows:
                    main = row.get("sampling steps") == settings.main_steps
                    wanted = row.get("budget") == first if sampling else main and row.get("budget") != PROBE
                    if row["entry"] == entry and wanted:
                        groups.setdefault(row["sampling steps"] if sampling else row["budget"], []).append(row)
                points = []
                for group in groups.values():
                    if mean := over_seeds(group, value):
                        points.append((sum(map(of, group)) / len(group), mean))
                points.sort(key=lambda point: point[0])
                bars = [0.0 if mean.half == float("inf") else mean.half for _, mean in points]
                axis.errorbar(
                    [x for x, _ in points],
                    [mean.mean for _, mean in points],
                    yerr=bars if any(bars) else None,
                    label=system.name,
                    **{"marker": marker, "markersize": 5, "linewidth": 1, "capsize": 3},
                )
            axis.set_xscale("log")
            if place == 0:
                axis.set_ylabel(name)
            if line is axes[-1]:
                axis.set_xlabel(cost)
            axis.grid(alpha=0.3)
            if name.startswith("Fréchet"):
                axis.set_yscale("log")
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(SYSTEMS))
    figure.savefig(path, dpi=110)
    plt.close(figure)
