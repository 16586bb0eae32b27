"""The results in short, as tables in Markdown for benchmarks/README.md."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.cells import read
from benchmarks.efficiency.counts import NONE
from benchmarks.efficiency.rows import RESOLUTIONS, Row, fits
from benchmarks.efficiency.tables import number
from cmd_lightning import markdown

RESULTS = Path(__file__).parent.parent / "results"
STEPS = 50
"""Of the videos that are shown."""


def counted() -> str:
    """What a video of every system takes at the paper's resolution of sampling, without guidance."""
    rows = read(RESULTS / "efficiency_counts.json")["rows"]
    at = {"resolution": RESOLUTIONS["9"], "guidance": False}
    steps = {row["system"]: row["tmacs"] for row in rows if fits(row, at | {"component": "step"})}
    whole = videos(rows, **at)
    lines = []
    for system in steps:
        row, paper = whole[system, NONE], whole[system, NONE]["reported"] or {}
        decoded = (whole.get((system, decoder)) for decoder in ("full", "tiny"))
        parameters = f"{row['params'] / 1e9:.3f}", paper.get("params") and f"{paper['params'] / 1e9:g}"
        full = number(row["tmacs"]), number(steps[system]), *(one and number(one["tmacs"]) for one in decoded)
        lines.append((system, *parameters, number(row["tmacs_paper"], 4), paper.get("tmacs_paper"), *full))
    head = ("system", "parameters, B", "paper", "paper's counting", "paper", "in full", "a step, in full")
    return markdown.table((*head, "with the frame decoder", "with the tiny one"), lines)


def measured(scale: str) -> str:
    """Seconds of a video of every system of a scale on a CPU, and what they are beside those of the first.

    What comes of fewer steps than it is said of has "≈" before it.
    """
    rows = read(RESULTS / f"efficiency_{scale}_cpu.json")["rows"]
    whole = videos(rows)
    base, *_ = whole.values()
    lines = []
    for (system, decoder), row in whole.items():
        about = "≈ " if row["extrapolated"] else ""
        name = {NONE: system, "full": f"{system}, with the frame decoder", "tiny": f"{system}, with the tiny one"}
        calls = [one["tmacs"] for one in rows if one["system"] == system and one["steps"] == 1]
        over = []
        if first := whole.get((base["system"], decoder)):
            seconds, tmacs = (row[key] / first[key] for key in ("seconds", "tmacs"))
            over = [about + number(seconds), number(tmacs), about + number(seconds / tmacs)] if row is not first else []
        step = number(1e3 * sum(calls)) if decoder == NONE else None
        rate = about + number(1e3 * row["tmacs"] / row["seconds"])
        lines.append((name[decoder], about + number(row["seconds"]), step, rate, *(over or [None] * 3)))
    of = f"over {base['system']}'s"
    head = (f"{STEPS} steps", "seconds a video", "GMAC a step", "GMAC/s", f"seconds {of}", f"multiply-adds {of}")
    return markdown.table((*head, "utilisation"), lines)


def videos(rows: Sequence[Row], **at: object) -> dict[tuple[str, str], Row]:
    """The rows of whole videos, by system and frame decoder."""
    wanted = {"component": "video", "steps": STEPS, **at}
    return {(row["system"], row["decoder"]): row for row in rows if fits(row, wanted)}
