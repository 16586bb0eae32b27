"""The claims ledger: each claim, how it is defined, whether it holds, and the command that checks it.

Claims are in ledger.yaml, what the paper reports in reported.yaml, what was measured in results/ and in the cards of
the zoo. Ratios and verdicts are computed: of a claim without evidence the verdict is what it needs. Verdicts are

- count reproduced: within 1 % of what the paper reports, or equal to it as printed; else count contradicted; of the
  figures of a table that differ, both are shown
- measured on a device: the claim's own figure there, and whether it falls short of the printed one; contradicted where
  it does by more than a twentieth
- small networks on a device: the same ratio of small networks at a small resolution, which decides nothing; after "≈"
  where its seconds come of fewer steps
- yes or no on an included model: whether the last of three distances adds more than the second, at small scale
- measured, undecided or contradicted on shapes32paper: by 95 % intervals of pairs
- small networks on the procedural world: confirmed, undecided or contradicted, by 95 % intervals over seeds
- tested: the tests are there, and hold it as long as they pass
- needs ...: nobody has run it
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import Path
from statistics import mean
from typing import Any

import yaml

from benchmarks.efficiency.rows import RESOLUTIONS, Row, fits, in_rows, wanted
from benchmarks.quality.verdicts import ablated, beaten
from benchmarks.reported import Figure, figures, reported
from cmd_lightning import markdown, zoo
from cmd_lightning.errors import InputError
from cmd_lightning.ranking.estimates import difference, estimate

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
CLOSE = 0.01  # how far a count may be from the reported one
SLACK = 0.95  # a measured ratio below this share of the claimed one contradicts it
ORDERED = {"shapes32paper_mixed": "shapes32paper", "shapes32": "shapes32 (content frame: the first frame)"}
"""Results with these distances, and the model of each."""
SMALL = "**small networks"  # how a verdict begins that decides nothing


@dataclass(frozen=True)
class Claim:
    """A claim; ledger.yaml says what each field means."""

    claim: str
    defined: str
    command: str = ""
    ours: bool = False
    printed: float | None = None
    ratio: dict[str, Any] = field(default_factory=dict)
    unit: str = ""
    counted: bool | dict[str, Any] = False
    timed: bool = False
    order: tuple[str, ...] = ()
    sampled: tuple[str, ...] = ()
    ranked: tuple[str, ...] = ()
    beats: str = ""
    ablated: tuple[str, ...] = ()
    tests: tuple[str, ...] = ()
    needs: str = ""
    readme: bool = False


def claims() -> list[Claim]:
    """All claims, each of whose ratios must come out as the paper prints it."""
    records = yaml.safe_load(Path(__file__).with_name("ledger.yaml").read_text(encoding="utf-8"))
    found = [Claim(**evidence(record) | record) for record in records]
    for claim in found:
        if claim.printed is not None and not agrees(value(claim), claim.printed):
            raise InputError(f"ledger.yaml: {claim.claim}: the tables give {value(claim)}, not {claim.printed}")
    return found


def evidence(record: Mapping[str, Any]) -> dict[str, str]:
    """What a claim needs and the command that checks it, where its kind of evidence says both."""
    if record.get("timed"):
        return {"needs": "an NVIDIA GPU", "command": "python -m benchmarks.efficiency"}
    if record.get("counted"):
        return {"needs": "a count", "command": "python -m benchmarks.efficiency --counts"}
    if record.get("sampled"):
        settings = " ".join(record["sampled"])
        return {"needs": "samples", "command": f"python -m benchmarks.sampling shapes32paper --test {settings}"}
    if record.get("beats"):
        return {"needs": "the trainings", "command": f"python -m benchmarks.quality --budget '{record['beats']}'"}
    if record.get("ranked"):
        return {"needs": "a ranking of both", "command": f"cmd-lightning zoo rank {record['ranked'][0]}"}
    return {"needs": "its tests", "command": f"pytest {' '.join(record['tests'])}"} if record.get("tests") else {}


def agrees(found: float, printed: float) -> bool:
    """Whether a number rounds to a printed one."""
    digits = len(f"{printed:g}".partition(".")[2])
    return abs(found - printed) <= 0.5 * 10**-digits + 1e-9


def operands(claim: Claim) -> list[list[Figure]]:
    """The paper's figures on both sides ("of", "over") of a claim's ratio."""
    ratio = claim.ratio
    fixed = {key: ratio.get(key) for key in ("quantity", "table")} | ratio.get("at", {})
    return [[reported(**operand, **fixed) for operand in ratio.get(side, [])] for side in ("of", "over")]


def value(claim: Claim) -> float:
    """A claim's figure as the paper's tables give it, in its unit."""
    return combine(claim, [[figure.value for figure in side] for side in operands(claim)])


def combine(claim: Claim, sides: Sequence[Sequence[float]]) -> float:
    """A claim's figure, of the values on both sides of its ratio."""
    above, below = sides
    ratio = mean(above) / mean(below) if below else mean(above)
    return {"%": 100 * ratio, "% less": 100 * (1 - ratio)}.get(claim.unit, ratio)


def arithmetic(claim: Claim) -> str:
    """How the paper's figures give a claim's: "24.2 / 3.13 = 7.73"."""
    sides = [[f"{figure.value:.4g}" for figure in side] for side in operands(claim)]
    if not sides[1]:
        return ""
    above, below = (f"mean({', '.join(side)})" if len(side) > 1 else side[0] for side in sides)
    result = f"{value(claim):.3g}" + (" %" if claim.unit.startswith("%") else "")
    return f"1 - {above} / {below} = {result}" if claim.unit == "% less" else f"{above} / {below} = {result}"


def measured(claim: Claim, rows: Sequence[Row], **at: Any) -> float | None:
    """A claim's figure, of rows of `benchmarks.efficiency` in place of the paper's; None where one is missing."""
    sides: list[list[float]] = [[], []]
    for side, values in zip(operands(claim), sides, strict=True):
        for figure in side:
            asked = [row[figure.quantity] for row in rows if fits(row, wanted(figure) | at)]
            found = [number for number in asked if number is not None]
            if not found:
                return None
            values.append(min(found))
    return combine(claim, sides)


def read(path: Path) -> Mapping[str, Any]:
    """A file of results; one without rows where it is not there."""
    return json.loads(path.read_text()) if path.is_file() else {"rows": []}


def count_verdict(claim: Claim, results: Path) -> Iterator[str]:
    """What the counts say of a claim."""
    rows = read(results / "efficiency_counts.json")["rows"]
    if isinstance(claim.counted, dict):
        pairs = list(compared(rows, **claim.counted))
        if pairs:
            others = [pair for pair in pairs if not near(*pair[1:])]
            told = "; ".join(f"{name} {ours:.3g}, reported {theirs:g}" for name, ours, theirs in others)
            right = f"**count reproduced**, {len(pairs) - len(others)} of {len(pairs)} figures"
            yield right + (f"; **differs**: {told}" if told else "")
    elif claim.counted and (found := measured(claim, rows)) is not None:
        holds = near(found, value(claim)) or agrees(found, claim.printed or value(claim))
        yield f"**count {'reproduced' if holds else 'contradicted'}**: {found:.4g}"


def compared(rows: Sequence[Row], tables: Sequence[str], quantity: str) -> Iterator[tuple[str, float, float]]:
    """Name, our count and the paper's figure, of every figure of these tables that a row counts."""
    for figure in (figure for table in tables for figure in figures(table, quantity=quantity)):
        found = [row[quantity] for row in rows if row.get(quantity) and fits(row, wanted(figure))]
        if found:
            name = f"{figure.system} {figure.at.get('component', '')}".strip()
            yield name, found[0] * figure.value / in_rows(figure), figure.value


def near(ours: float, theirs: float) -> bool:
    """Whether a count is the reported one: within 1 %, or as printed."""
    return abs(ours / theirs - 1) <= CLOSE or agrees(ours, theirs)


def time_verdict(claim: Claim, results: Path) -> Iterator[str]:
    """What measurements on every device say of a claim; of ratios, those of a fifth of the channels too."""
    for path in sorted(results.glob("efficiency_*.json")) if claim.timed else ():
        result = read(path)
        scale, rows = result.get("settings", {}).get("scale"), result["rows"]
        at = {"resolution": RESOLUTIONS[str(claim.ratio["table"])]} if scale == "paper" else {}
        for device, resolution in sorted({(row["device"], row["resolution"]) for row in rows if fits(row, at)}):
            where = {"device": device, "resolution": resolution}
            found = [measured(claim, rows, **where, compiled=compiled) for compiled in (True, False)]
            figure = next((figure for figure in found if figure is not None), None)
            article = "an" if device.startswith(("A", "E", "I", "O", "NVIDIA")) else "a"
            told = figure is not None and f"{figure:.3g} {claim.unit}".strip()
            if told and scale == "paper":
                word, short = against(claim, figure)
                yield f"**{word} on {article} {device}**: {told}{short}"
            elif told and scale == "fifth" and claim.ratio.get("over"):
                about = "≈ " if extrapolated(claim, rows, **where) else ""
                yield f"{SMALL} on {article} {device}**: {about}{told}"


def extrapolated(claim: Claim, rows: Sequence[Row], **at: Any) -> bool:
    """Whether seconds of a claim are those of fewer steps than it is about."""
    asked = [wanted(one) | at for side in operands(claim) for one in side if one.quantity == "seconds"]
    return any(row.get("extrapolated") and any(fits(row, one) for one in asked) for row in rows)


def against(claim: Claim, figure: float) -> tuple[str, str]:
    """The verdict on a measured figure, and in which way it falls short of the printed one."""
    printed = claim.printed or value(claim)
    less = claim.unit in ("%", "s")  # of these, less is better
    short = not agrees(figure, printed) and (figure > printed if less else figure < printed)
    if figure * SLACK > printed if less else figure < SLACK * printed:
        return "contradicted", ""
    return "measured", f", {'above' if less else 'below'}" if short else ""


def order_verdict(claim: Claim, results: Path) -> Iterator[str]:
    """Whether the last of three distances adds more to the one before it than the second does, by included model."""
    for name in claim.order and ORDERED:
        rows = read(results / f"{name}.json")["rows"]
        for row in (row for row in rows if row["cell"] == "mixed captions/middle"):
            first, second, last = (row[key]["shapes_frechet_distance"] for key in claim.order)
            word = "yes" if last - second > second - first else "no"
            yield f"**{word} on {ORDERED[name]}**: {first:.2f}, {second:.2f}, {last:.2f}"


def sample_verdict(claim: Claim, results: Path) -> Iterator[str]:
    """Whether the samples of the first of two solvers are worse than the second's, or better, of the same seeds.

    By 95 % intervals of the differences between groups of samples, those whose kernel distances the file has; undecided
    where both hold 0, which does not show that the solvers are alike.
    """
    rows = read(results / "sampling.json")["rows"]
    by_setting = {f"{row['solver']}/{row['steps']}": row for row in rows if row["split"] == "test"}
    if claim.sampled and by_setting.keys() >= set(claim.sampled):
        few, many = (by_setting[setting] for setting in claim.sampled)
        accuracy, distance = (
            estimate([a - b for a, b in zip(of(few), of(many), strict=True)])
            for of in (shares, itemgetter("kernel_distance_parts"))
        )
        worse = (distance.decided and distance.mean > 0) or (accuracy.decided and accuracy.mean < 0)
        undecided = not (distance.decided or accuracy.decided)
        word = "undecided" if undecided else "contradicted" if worse else "measured"
        yield f"**{word} on shapes32paper**: accuracy {accuracy:+.3f}, kernel distance {distance:+.3f}"


def shares(row: Row) -> list[float]:
    """The share of samples that show what was asked, of each group."""
    hits, size = row["hits"], len(row["hits"]) // len(row["kernel_distance_parts"])
    return [hits[first : first + size].count("1") / size for first in range(0, len(hits), size)]


def rank_verdict(claim: Claim) -> Iterator[str]:
    """By how much the first of two motion models is ranked better, and whether that is more than the seeds' spread."""
    if not claim.ranked:
        return
    rankings = [zoo.entry(name).card.ranking for name in claim.ranked]
    scores = [{seed["seed"]: seed["frechet"] for seed in ranking.get("seeds", [])} for ranking in rankings]
    found = difference(*scores)
    if found is not None:
        word = "undecided" if not found.decided else "measured" if found.mean < 0 else "contradicted"
        values = " against ".join(f"{mean(score.values()):.2f}" for score in scores)
        yield f"**{word} on shapes32paper**: {values}, {len(scores[0])} seeds each"


def quality_verdict(claim: Claim, results: Path) -> Iterator[str]:
    """What systems trained from scratch at equal compute say of a claim."""
    rows = read(results / "quality.json")["rows"]
    if claim.beats:
        yield from beaten(rows, claim.beats)
    for one in ablated(rows, claim.ablated):
        yield f"{SMALL} on the procedural world**: {one}"


def verdict(claim: Claim, results: Path = RESULTS) -> str:
    """What is known of a claim, with what was measured in the folder `results`."""
    found = [
        *count_verdict(claim, results),
        *time_verdict(claim, results),
        *order_verdict(claim, results),
        *sample_verdict(claim, results),
        *rank_verdict(claim),
        *quality_verdict(claim, results),
    ]
    if claim.tests and all((ROOT / test).is_file() for test in claim.tests):
        found.append(f"**tested** in {', '.join(Path(test).name for test in claim.tests)}")
    if all(word.startswith(SMALL) for word in found):
        found.append(f"needs {claim.needs}")
    return "; ".join(found)


def table() -> str:
    """The ledger as Markdown."""
    parts = []
    for ours, head in ((False, "claim of the paper"), (True, "claim of ours")):
        rows = [
            (one.claim, ": ".join(filter(None, (one.defined, arithmetic(one)))), verdict(one), f"`{one.command}`")
            for one in claims()
            if one.ours == ours
        ]
        parts.append(markdown.table((head, "how it is defined", "verdict", "checked by"), rows))
    return "\n\n".join(parts)


def shortened() -> str:
    """The claims that the README shows, as Markdown."""
    rows = [(one.claim, verdict(one), f"`{one.command}`") for one in claims() if one.readme]
    return markdown.table(("claim", "verdict", "checked by"), rows)
