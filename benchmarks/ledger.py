"""The claims ledger of the README: each claim, how it is defined, whether it holds, and the command that checks it.

Claims stand in ledger.yaml, what the paper reports in reported.yaml, what was measured in results/ and in the cards of
the zoo. Ratios and verdicts are computed: of a claim without evidence the verdict is what it needs. Verdicts are

- count reproduced: within 1 % of what the paper reports, or equal to it as printed; else count contradicted; of the
  figures of a table that differ, both are shown
- measured on DEVICE: the claim's own ratio there; contradicted on DEVICE where it falls short of it
- small networks on DEVICE: the same ratio of small networks at a small resolution, which decides nothing
- same order, other order: at small scale
- undecided: within the spread of the seeds
- a test holds it
- needs ...: nobody has run it
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any

import yaml

from benchmarks.reported import Figure, figures, reported
from cmd_lightning import zoo
from cmd_lightning.errors import InputError
from cmd_lightning.ranking.intervals import difference

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
RESOLUTIONS = {"8": "512x512", "9": "512x1024", "text": "512x1024"}
"""Of the clips of a table."""
STEPS = 50
"""Of a video, where a figure of the running text does not say it."""
CLOSE = 0.01
"""How far a count may be from the reported one."""
SLACK = 0.95
"""A measured ratio below this share of the claimed one contradicts it."""

SMALL = "**small networks"
"""How a verdict begins that decides nothing."""

Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Claim:
    """A claim, as ledger.yaml has it; what each field means stands there."""

    claim: str
    defined: str
    command: str
    ours: bool = False
    printed: float | None = None
    ratio: dict[str, Any] = field(default_factory=dict)
    unit: str = ""
    counted: bool | dict[str, Any] = False
    timed: bool = False
    order: tuple[str, ...] = ()
    ranked: tuple[str, ...] = ()
    tests: tuple[str, ...] = ()
    needs: str = ""


def claims() -> list[Claim]:
    """All claims.

    Raises:
        InputError: A ratio does not come out as the paper prints it.
    """
    found = [Claim(**record) for record in yaml.safe_load(Path(__file__).with_name("ledger.yaml").read_text())]
    for claim in found:
        if claim.printed is not None and not agrees(value(claim), claim.printed):
            raise InputError(f"ledger.yaml: {claim.claim}: the tables give {value(claim)}, not {claim.printed}")
    return found


def agrees(found: float, printed: float) -> bool:
    """Whether a number rounds to a printed one."""
    digits = len(f"{printed:g}".partition(".")[2])
    return abs(found - printed) <= 0.5 * 10**-digits + 1e-9


def operands(claim: Claim, side: str) -> list[Figure]:
    """The paper's figures on a side ("of", "over") of a claim's ratio."""
    ratio = claim.ratio
    return [
        reported(quantity=ratio["quantity"], table=ratio["table"], **operand, **ratio.get("at", {}))
        for operand in ratio.get(side, [])
    ]


def value(claim: Claim) -> float:
    """A claim's figure as the paper's tables give it, in its unit."""
    return combine(claim, [[figure.value for figure in operands(claim, side)] for side in ("of", "over")])


def combine(claim: Claim, sides: Sequence[Sequence[float]]) -> float:
    """A claim's figure, of the values on both sides of its ratio."""
    above, below = sides
    ratio = mean(above) / mean(below) if below else mean(above)
    return {"%": 100 * ratio, "% less": 100 * (1 - ratio)}.get(claim.unit, ratio)


def arithmetic(claim: Claim) -> str:
    """How the paper's figures give a claim's: "24.2 / 3.13 = 7.73"."""
    if not claim.ratio:
        return ""
    sides = [[f"{figure.value:.4g}" for figure in operands(claim, side)] for side in ("of", "over")]
    if not sides[1]:
        return ""
    above, below = (f"mean({', '.join(side)})" if len(side) > 1 else side[0] for side in sides)
    result = f"{value(claim):.3g}" + (" %" if claim.unit.startswith("%") else "")
    return f"1 - {above} / {below} = {result}" if claim.unit == "% less" else f"{above} / {below} = {result}"


def rows_of(path: Path) -> Rows:
    """The rows of a file of results; none where it is not there."""
    return json.loads(path.read_text())["rows"] if path.is_file() else []


def wanted(figure: Figure) -> dict[str, Any]:
    """The fields of a row of `benchmarks.efficiency` that is of the same as one of the paper's figures."""
    found = {"system": figure.system, "component": "video", **figure.at}
    if found["component"] == "diffusion":
        found["component"] = "denoiser"
    if found["component"] == "video":
        found |= {"guidance": False, "decoder": "none"} | ({} if figure.table == "10" else {"steps": STEPS} | figure.at)
    return found | ({"resolution": RESOLUTIONS[figure.table]} if figure.table in RESOLUTIONS else {})


def measured(claim: Claim, rows: Rows, **at: Any) -> float | None:
    """A claim's figure, of rows of `benchmarks.efficiency` in place of the paper's; None where one is missing."""
    sides: list[list[float]] = []
    for side in ("of", "over"):
        sides.append([])
        for figure in operands(claim, side):
            found = [row[figure.quantity] for row in rows if fits(row, wanted(figure) | at)]
            found = [number for number in found if number is not None]
            if not found:
                return None
            sides[-1].append(min(found))
    return combine(claim, sides)


def fits(row: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Whether a row has the wanted values."""
    return all(row.get(key) == item for key, item in wanted.items())


def count_verdict(claim: Claim, results: Path) -> Iterator[str]:
    """What the counts say of a claim."""
    rows = rows_of(results / "efficiency_counts.json")
    if isinstance(claim.counted, dict):
        pairs = list(compared(rows, **claim.counted))
        if pairs:
            wrong = [f"{name} {ours:.3g}, reported {theirs:g}" for name, ours, theirs in pairs if not near(ours, theirs)]
            right = f"**count reproduced**, {len(pairs) - len(wrong)} of {len(pairs)} figures"
            yield right + (f"; **differs**: {'; '.join(wrong)}" if wrong else "")
        return
    found = measured(claim, rows) if claim.counted else None
    if found is not None:
        holds = near(found, value(claim)) or agrees(found, claim.printed or value(claim))
        yield f"**count {'reproduced' if holds else 'contradicted'}**: {found:.4g}"


def compared(rows: Rows, tables: Sequence[str], quantity: str) -> Iterator[tuple[str, float, float]]:
    """Name, our count and the paper's figure, of every figure of these tables that a row counts."""
    for figure in (figure for table in tables for figure in figures(table, quantity=quantity)):
        found = [row[quantity] for row in rows if row.get(quantity) and fits(row, wanted(figure))]
        if found:
            scale = 1e9 if figure.unit == "B" else 1
            yield f"{figure.system} {figure.at.get('component', '')}".strip(), found[0] / scale, figure.value


def near(ours: float, theirs: float) -> bool:
    """Whether a count is the reported one: within 1 %, or as printed."""
    return abs(ours / theirs - 1) <= CLOSE or agrees(ours, theirs)


def time_verdict(claim: Claim, results: Path) -> Iterator[str]:
    """What measurements on every device say of a claim; of ratios, those of small networks too."""
    for path in sorted(results.glob("efficiency_*.json")) if claim.timed else ():
        rows = [row for row in rows_of(path) if row.get("device") not in (None, "meta")]
        of_table = RESOLUTIONS[str(claim.ratio["table"])]
        for device, resolution in sorted({(row["device"], row["resolution"]) for row in rows}):
            at = {"device": device, "resolution": resolution}
            found = [measured(claim, rows, **at, compiled=compiled) for compiled in (True, False)]
            figure = next((figure for figure in found if figure is not None), None)
            if figure is None:
                continue
            unit = f" {claim.unit}" if claim.unit else ""
            if resolution == of_table:
                less = claim.unit in ("%", "s")  # of these, less is better
                short = figure * SLACK > value(claim) if less else figure < SLACK * value(claim)
                yield f"**{'contradicted' if short else 'measured'} on {device}**: {figure:.3g}{unit}"
            elif claim.ratio.get("over"):
                yield f"{SMALL} on {device}**: {figure:.3g}{unit}"


def order_verdict(claim: Claim, results: Path) -> Iterator[str]:
    """Whether distances at small scale grow from one to the next, as means over all cells."""
    path = results / "shapes32.json"
    if claim.order and path.is_file():
        cells = json.loads(path.read_text())["cells"]
        kept = [cell for name, cell in cells.items() if name.startswith("generation/")]
        values = [mean(cell[key]["shapes_frechet_distance"] for cell in kept) for key in claim.order]
        same = values == sorted(values)
        numbers = " < ".join(f"{number:.1f}" for number in values) if same else ", ".join(f"{n:.1f}" for n in values)
        yield f"**{'same' if same else 'other'} order on shapes32**: {numbers} (shapes features, no FVD)"


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
        yield f"**{word} on shapes32**: {values}, {len(scores[0])} seeds each"


def test_verdict(claim: Claim) -> Iterator[str]:
    """Whether the tests are there."""
    if claim.tests and all((ROOT / test).is_file() for test in claim.tests):
        yield f"**{'a test holds' if len(claim.tests) == 1 else 'tests hold'} it**"


def verdict(claim: Claim, results: Path = RESULTS) -> str:
    """What is known of a claim.

    Args:
        claim: The claim.
        results: Folder of what was measured.
    """
    found = [
        *count_verdict(claim, results),
        *time_verdict(claim, results),
        *order_verdict(claim, results),
        *rank_verdict(claim),
        *test_verdict(claim),
    ]
    if all(word.startswith(SMALL) for word in found):
        found.append(f"needs {claim.needs}")
    return "; ".join(found)


def table(results: Path = RESULTS) -> str:
    """The ledger as Markdown.

    Args:
        results: Folder of what was measured.
    """
    head = "| {} | how it is defined | verdict | checked by |\n| --- | --- | --- | --- |"
    parts = {False: [head.format("claim of the paper")], True: [head.format("claim of ours")]}
    for claim in claims():
        defined = ": ".join(part for part in (claim.defined, arithmetic(claim)) if part)
        parts[claim.ours].append(f"| {claim.claim} | {defined} | {verdict(claim, results)} | `{claim.command}` |")
    return "\n\n".join("\n".join(part) for part in parts.values())
