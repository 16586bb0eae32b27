"""The claims of the ledger, from ledger.yaml, and their figures: of the paper's tables, or of measured rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any

import yaml

from benchmarks.efficiency.rows import Row, fits, wanted
from benchmarks.reported import Figure, reported
from cmd_lightning.errors import InputError

FILE = Path(__file__).with_name("ledger.yaml")


@dataclass(frozen=True)
class Claim:
    """A claim, as ledger.yaml has it; what each field means stands there."""

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
    tests: tuple[str, ...] = ()
    needs: str = ""


def claims() -> list[Claim]:
    """All claims.

    Raises:
        InputError: A ratio does not come out as the paper prints it.
    """
    found = [Claim(**evidence(record) | record) for record in yaml.safe_load(FILE.read_text(encoding="utf-8"))]
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
        return {"needs": "samples", "command": f"python -m benchmarks.sampling shapes32 --test {settings}"}
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
    for figures, values in zip(operands(claim), sides, strict=True):
        for figure in figures:
            found = [row[figure.quantity] for row in rows if fits(row, wanted(figure) | at)]
            found = [number for number in found if number is not None]
            if not found:
                return None
            values.append(min(found))
    return combine(claim, sides)
