"""Verdicts on claims from the results of the queue, for the claims ledger."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from benchmarks.cells import Rows
from benchmarks.quality.ablations import CLAIMS, TABLE_4
from benchmarks.quality.settings import MAIN_STEPS, of_entry
from benchmarks.quality.systems import SYSTEMS
from benchmarks.quality.tables import CHOSEN, against, by_seed, distance, over_seeds, verdict
from cmd_lightning.ranking.estimates import difference, estimate


def beaten(rows: Rows, budget: str) -> Iterator[str]:
    """Whether the chosen CMD's videos are closer to real clips than those of all others after a budget."""
    found = {
        entry: mean
        for entry in SYSTEMS
        if (
            mean := over_seeds(
                of_entry(rows, entry, budget=budget, **{"sampling steps": MAIN_STEPS}), distance("mixed")
            )
        )
    }
    own = found.pop(CHOSEN, None)
    if own is None or not found:
        return
    words = {entry: against(own, other) for entry, other in found.items()}
    word = next((word for word in ("worse", "undecided") if word in words.values()), "better")
    name = {"better": "measured", "worse": "contradicted"}.get(word, word)
    listed = "; ".join(f"{SYSTEMS[entry].name} {other:.1f}, {words[entry]}" for entry, other in found.items())
    yield f"**{name} on the procedural world**: {own:.1f} against {listed}"


def ablated(rows: Rows, names: Sequence[str]) -> Iterator[str]:
    """The verdicts on rows of table 4, by what sets them apart."""
    for one in CLAIMS:
        sides = [by_seed(of_entry(rows, TABLE_4, row=name), "mixed") for name in (one.better, one.worse)]
        if one.name in names and all(sides):
            numbers = " against ".join(f"{estimate(list(side.values())).mean:.2f}" for side in sides)
            yield f"{one.better} {verdict(difference(*sides))}, Fréchet distance on shapes features {numbers}"
