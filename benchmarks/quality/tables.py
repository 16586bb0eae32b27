"""Results of the queue in Markdown: systems at equal budgets, and the verdicts on table 4."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks.cells import Rows
from benchmarks.quality.ablations import CLAIMS, STAGES, TABLE_4, Claim
from benchmarks.quality.settings import PROBE, Settings, of_entry
from benchmarks.quality.systems import SYSTEMS
from cmd_lightning.markdown import table
from cmd_lightning.ranking.estimates import Estimate, difference, estimate

CHOSEN = "cmd"
"""The system that the others are compared with."""
NO_FVD = "needs CMD_I3D_WEIGHTS"


def overlap(one: Estimate, other: Estimate) -> bool:
    """Whether the 95 % intervals of two means have values in common."""
    return abs(one.mean - other.mean) <= one.half + other.half


def against(own: Estimate, other: Estimate, lower_is_better: bool = True) -> str:
    """Whether the first is better than the second: "better", "worse", or "undecided" where intervals overlap."""
    if overlap(own, other):
        return "undecided"
    return "better" if (own.mean < other.mean) == lower_is_better else "worse"


def over_seeds(rows: Rows, value: Callable[[Mapping[str, Any]], float | None]) -> Estimate | None:
    """The mean of a value over seeds with its interval; None where a row has none."""
    found = [value(row) for row in rows]
    return estimate([one for one in found if one is not None]) if found and None not in found else None


def distance(level: str, kind: str = "frechet", space: str = "shapes") -> Callable[[Mapping[str, Any]], float | None]:
    """A distance of a row; None where it was not measured in that feature space."""
    return lambda row: row[level].get(space, {}).get(kind)


def shown(value: Estimate | None, spec: str, otherwise: str | None = None) -> str | None:
    """An estimate for people."""
    return otherwise if value is None else f"{value:{spec}}"


def systems(rows: Rows, budget: str, settings: Settings, spaces: Sequence[str] = ()) -> str:
    """All systems after a budget, sampled with the main number of steps; means over seeds with 95 % intervals.

    Args:
        rows: Of the results.
        budget: Its name.
        settings: Of the results.
        spaces: Feature networks besides the shapes features and the I3D whose distances are shown too.
    """
    at = {"budget": budget, "sampling steps": settings.main_steps}
    chosen = over_seeds(of_entry(rows, CHOSEN, **at), distance("mixed"))
    lines = []
    for entry, system in SYSTEMS.items():
        found = of_entry(rows, entry, **at)
        if not found:
            continue
        frechet = over_seeds(found, distance("mixed"))
        verdict = against(chosen, frechet) if chosen and frechet and entry != CHOSEN else None
        trained = [sum(stage["seconds"] for stage in row["training"].values()) / 60 for row in found]
        accuracy, predicted = system.predicted
        lines.append(
            (
                f"{system.name}, {found[0]['size']}",
                f"{found[0]['parameters'] / 1e6:.1f}",
                len(found),
                f"{sum(trained) / len(trained):.0f}",
                f"{found[0]['sampling macs'] / 1e9:.1f}",
                shown(over_seeds(found, lambda row: row["accuracy"]), ".2f"),
                f"{accuracy:.2f}" if budget == next(iter(settings.budgets)) else None,
                shown(frechet, ".1f"),
                f"{predicted:.0f}" if budget == next(iter(settings.budgets)) else None,
                shown(over_seeds(found, distance("plain")), ".1f"),
                shown(over_seeds(found, distance("mixed", "kernel")), ".3f"),
                shown(over_seeds(found, distance("mixed", space="i3d")), ".1f", NO_FVD),
                *(shown(over_seeds(found, distance("mixed", space=space)), ".3g") for space in spaces),
                verdict,
            )
        )
    head = (
        *("system, size", "parameters, M", "seeds", "CPU minutes", "GMAC per video", "accuracy", "predicted"),
        *("Fréchet, mixed", "predicted", "Fréchet, plain", "kernel, mixed", "FVD, mixed"),
        *(f"Fréchet, mixed ({space})" for space in spaces),
        f"{SYSTEMS[CHOSEN].name}, is",
    )
    return table(head, lines)


def probes(rows: Rows) -> str:
    """The probe of three sizes of each system."""
    lines = [
        (
            *(SYSTEMS[row["entry"]].name, row["size"], f"{row['parameters'] / 1e6:.1f}"),
            " + ".join(f"{spent['steps']}" for spent in row["training"].values()),
            " + ".join(f"{spent['seconds']:.0f}" for spent in row["training"].values()),
            *(f"{row['accuracy']:.2f}", f"{row['mixed']['shapes']['frechet']:.1f}"),
        )
        for row in rows
        if row.get("budget") == PROBE
    ]
    head = ("system", "size", "parameters, M", "steps of its stages", "CPU seconds", "accuracy", "Fréchet, mixed")
    return table(head, lines)


def verdict(found: Estimate | None) -> str:
    """What a difference between what should be better and what should be worse says of a claim."""
    if found is None or not found.decided:
        return "undecided"
    return "confirmed" if found.mean < 0 else "contradicted"


def table_4(rows: Rows, settings: Settings) -> str:
    """The verdicts on the paper's table 4, by 95 % intervals of differences of the same seeds."""
    lines = []
    of_stages = of_entry(
        rows, "cmd-paper", budget=next(iter(settings.budgets)), **{"sampling steps": settings.main_steps}
    )
    named = [row | {"generation": row["mixed"]} for row in of_stages]
    for one in STAGES:
        lines.append(line(one, *(by_seed(named, name) for name in (one.better, one.worse))))
    for one in CLAIMS:
        rows_of = (of_entry(rows, TABLE_4, row=name) for name in (one.better, one.worse))
        lines.append(line(one, *(by_seed(found, "mixed") for found in rows_of)))
    return table(("better", "than", "paper, FVD", "here, Fréchet on shapes features", "verdict", "predicted"), lines)


def by_seed(rows: Rows, name: str) -> dict[int, float]:
    """The Fréchet distance on shapes features by seed."""
    return {row["seed"]: row[name]["shapes"]["frechet"] for row in rows}


def line(claim: Claim, own: Mapping[int, float], other: Mapping[int, float]) -> Sequence[object]:
    """The line of a claim, of the distances of its two sides by seed."""
    numbers = ", ".join(f"{estimate(list(values.values())):.2f}" for values in (own, other) if values)
    found = verdict(difference(own, other)) if own and other else None
    return claim.better, claim.worse, claim.reported, numbers or None, found, claim.predicted
