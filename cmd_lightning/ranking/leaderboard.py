"""The leaderboard: a table of the rankings in the zoo's cards, and the ranking of a model written to its card."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from cmd_lightning import markdown
from cmd_lightning.atomic_files import replaced
from cmd_lightning.ranking.estimates import Estimate, difference, estimate
from cmd_lightning.zoo import Entry, entries
from cmd_lightning.zoo.card import with_field

Ranking = Mapping[str, Any]

COLUMNS = (
    "motion model",
    "motion-prediction distance",
    "behind the best",
    "behind the next better model",
    "direction classified correctly",
    "s per video",
    "times MotionDiT's",
    "MMAC per step",
    "parameters, M",
)


def ranked() -> dict[str, Ranking]:
    """The rankings in the cards of the zoo, by model."""
    return {entry.name: entry.card.ranking for entry in entries("motion") if entry.card.ranking}


def table(rankings: Mapping[str, Ranking], marked: str | None = None) -> str:
    """The leaderboard in Markdown, smallest distance first, for the protocol of row `marked` or the most common one.

    A model is "undecided" against the best, or the next better one, if the 95 % interval of their differences, seed by
    seed, contains 0.
    """
    if not rankings:
        return "No motion model has been ranked yet."
    keys = [ranking["key"] for ranking in rankings.values()]
    key = rankings[marked]["key"] if marked and marked in rankings else max(sorted(set(keys)), key=keys.count)
    others = [name for name, ranking in rankings.items() if ranking["key"] != key]
    rows = {name: ranking for name, ranking in rankings.items() if name not in others}
    order = sorted(rows, key=lambda name: distance(rows[name]).mean)
    lines = []
    for place, name in enumerate(order):
        ranking, bold = rows[name], "**" if name == marked else ""
        sampling, seeds = ranking["sampling"], ranking["seeds"]
        right = estimate([100 * seed["direction"] for seed in seeds])
        once = f" (+ {ranking['prepare_macs'] / 1e6:.1f} once)" if ranking["prepare_macs"] else ""  # for all steps
        line = (
            f"{bold}{name}{bold}",
            f"{bold}{distance(ranking):.2f}{bold}",
            verdict(ranking, rows[order[0]]) if place else "best" if len(order) > 1 else "the only one",
            verdict(ranking, rows[order[place - 1]]) if place else "",
            f"{right:.1f} %",
            f"{sampling['seconds']:.3f}",
            f"{sampling['ratio']:.2f}",
            f"{ranking['macs'] / 1e6:.1f}{once}",
            f"{ranking['parameters'] / 1e6:.2f}",
        )
        lines.append(line)
    parts = [markdown.table(COLUMNS, lines), words(rows[order[0]])]
    if others:
        parts.append(f"Ranked by another protocol, so not comparable: {', '.join(sorted(others))}.")
    return "\n\n".join(parts)


def distance(ranking: Ranking) -> Estimate:
    """The mean Fréchet distance of a model with its interval."""
    return estimate([seed["frechet"] for seed in ranking["seeds"]])


def verdict(ranking: Ranking, better: Ranking) -> str:
    """The difference of a model from a better one, and whether it is significant."""
    own, other = ({seed["seed"]: seed["frechet"] for seed in row["seeds"]} for row in (ranking, better))
    found = difference(own, other)
    if found is None:
        return f"{distance(ranking).mean - distance(better).mean:+.2f} (undecided: no seed in common)"
    return f"{found:+.2f}" if found.decided else f"{found:+.2f} (undecided)"


def words(ranking: Ranking) -> str:
    """The protocol, reference values of the distances, and limits of the table."""
    protocol, reference = ranking["protocol"], ranking["reference"]
    perfect, other = reference["reconstruction"], reference["other clips"]
    hardware = ranking["sampling"]["hardware"].removesuffix(", one thread")
    return (
        f"{protocol['samples']:,} training samples of {protocol['train_clips']:,} clips of the procedural world "
        f"({protocol['frames']} frames, {protocol['size']}x{protocol['size']}, plain and mixed) as cached latents of "
        f"the frozen {protocol['model']}, v-prediction; mean ± 95 % t interval over {len(ranking['seeds'])} seeds, "
        "differences paired by seed.\n"
        f"Distance: Fréchet on shapes features (not FVD) of {protocol['test_clips']} held-out clips with true "
        f"content frame and generated motion ({protocol['steps']} steps, guidance {protocol['guidance']:g}) to the "
        f"clips themselves. For scale: reconstructions have {perfect['frechet']:.2f}, a second set of real clips "
        f"{other['frechet']:.2f}. "
        f"Of the directions of reconstructions, {perfect['direction']:.1%} are classified correctly; chance is 12.5%. "
        f"Seconds are CPU seconds for one clip on one thread, {hardware}, measured in turns with MotionDiT, with "
        "guidance (two halves per step); MMAC (million multiply-adds) are without guidance.\n"
        "All models are far from converged: they are ranked by what they learn within this small budget at one "
        f"learning rate, {protocol['learning_rate']:g}. The interval is over seeds, not over the choice of clips."
    )


def save(ranking: Ranking, entry: Entry) -> Path:
    """Writes the `ranking` of the card of a motion model and leaves the rest of it as it is.

    Without a card, a minimal one is created.
    """
    if entry.card_path.is_file():
        text = entry.card_path.read_text(encoding="utf-8")
    else:
        known = {name: getattr(entry.card, name) for name in ("name", "kind", "what", "config")}
        text = yaml.safe_dump(known, sort_keys=False, allow_unicode=True)
    with replaced(entry.card_path) as draft:
        draft.write_text(with_field(text, "ranking", ranking), encoding="utf-8")
    return entry.card_path
