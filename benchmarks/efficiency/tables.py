"""The results as Markdown tables: what is counted or measured, what the paper reports, and the ratios."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.claims import claims, measured, value
from benchmarks.efficiency.counts import NONE
from benchmarks.efficiency.ratios import SAME, pairs
from benchmarks.efficiency.rows import Row
from cmd_lightning import markdown

OWNERS = {"CMD": "Stable Diffusion", "LTX": "LTX"}
"""Whose frame decoders the systems have; the other systems have the first's."""


def number(value: float | None, digits: int = 3) -> str | None:
    """A number with so many digits that count, and all of those before the point."""
    if value is None:
        return None
    return f"{value:.0f}" if abs(value) >= 10**digits else f"{value:#.{digits}g}".rstrip(".")


def deviation(row: Row, key: str) -> str | None:
    """How far a row is from what the paper reports."""
    paper = (row["reported"] or {}).get(key)
    return paper and f"{round(100 * (row[key] / paper - 1), 1) + 0.0:+.1f} %"  # no -0.0


def counts_tables(rows: Sequence[Row]) -> str:
    """Calls of networks, parameters and videos."""
    lines = []
    for row in rows:
        decoding = row["component"] == "frame decoder"
        if row["steps"] is not None or (decoding and row["system"] not in OWNERS):
            continue
        name = f"{row['component']}, {row['decoder']}" if decoding else row["component"]
        paper = (row["reported"] or {}).get("tmacs_paper")
        lines.append(
            (
                *(OWNERS[row["system"]] if decoding else row["system"], name, row["resolution"]),
                *(f"{row['params'] / 1e6:.1f}", number(row["tmacs"]), number(row["tmacs_paper"])),
                *(paper, deviation(row, "tmacs_paper")),
            )
        )
    head = ("system", "network", "size", "parameters, M", "TMAC", "TMAC, paper's counting", "paper", "deviation")
    of_calls = markdown.table(head, lines)

    videos = [row for row in rows if row["component"] == "video" and row["decoder"] == NONE]
    plain, guided = ([row for row in videos if row["guidance"] is on] for on in (False, True))
    decoded = {
        tuple(row[key] for key in ("system", "resolution", "steps", "decoder")): row["tmacs"]
        for row in rows
        if row["component"] == "video" and not row["guidance"]
    }
    lines = [
        (
            *(row["system"], row["resolution"], row["steps"], number(row["tmacs"]), number(twice["tmacs"])),
            *(number(decoded.get((row["system"], row["resolution"], row["steps"], one))) for one in ("full", "tiny")),
            *(number(row["tmacs_paper"], 4), (row["reported"] or {}).get("tmacs_paper"), deviation(row, "tmacs_paper")),
        )
        for row, twice in zip(plain, guided, strict=True)
    ]
    decoders = ("with the frame decoder", "with the tiny one")
    head = ("system", "size", "steps", "TMAC", "with guidance", *decoders)
    head += ("TMAC, paper's counting", "paper", "deviation")
    of_videos = markdown.table(head, lines)

    whole = {row["system"]: row for row in plain}.values()
    lines = [
        (row["system"], f"{row['params'] / 1e9:.3f}", params and params / 1e9, deviation(row, "params"))
        for row in whole
        for params in [(row["reported"] or {}).get("params")]
    ]
    of_parameters = markdown.table(("system", "parameters, B", "paper", "deviation"), lines)
    return "\n\n".join([of_calls, of_videos, of_parameters, headline_table(rows)])


def headline_table(rows: Sequence[Row]) -> str:
    """The ratios that the paper claims of sampling, as the ledger defines them: its own figures, and ours.

    All are of 512x1024, 50 steps, no guidance, latents without the frame decoder (table 9).
    """
    kinds = {row["compiled"] for row in rows}
    columns = {name: kind for name, kind in (("counted", None), ("eager", False), ("compiled", True)) if kind in kinds}
    lines = [
        (
            *(f"{claim.printed:g} {claim.unit}".strip(), claim.defined, number(value(claim))),
            *(number(measured(claim, rows, compiled=kind)) for kind in columns.values()),
        )
        for claim in claims()
        if claim.ratio.get("table") == 9
    ]
    head = ("claim", "definition", "from the paper's figures", *(f"ours, {name}" for name in columns))
    return markdown.table(head, lines)


def timing_tables(rows: Sequence[Row], core: Row) -> str:
    """The core cell with all frame decoders, its parts, its ratios, and the ratios to the first system everywhere.

    Args:
        rows: of a result.
        core: what the rows of the core cell have in common.
    """
    inner = [row for row in rows if core.items() <= row.items()]
    lines = []
    for row in inner:
        if row["component"] != "video":
            continue
        paper = row["reported"] or {}
        missing = row["seconds"] is None
        seconds = "did not fit" if missing else ("≈ " if row["extrapolated"] else "") + number(row["seconds"])
        rate = None if missing else number(row["tmacs"] / row["seconds"])
        lines.append(
            (
                *(row["system"], row["steps"], "yes" if row["compiled"] else "no", row["decoder"]),
                *(number(row["tmacs"]), seconds, paper.get("seconds"), rate),
                *(number(row["memory_gb"]), paper.get("memory_gb")),
            )
        )
    head = ("system", "steps", "compiled", "frame decoder", "TMAC", "seconds", "paper", "TMAC/s", "memory, GB", "paper")
    parts = [markdown.table(head, lines)]

    lines = [
        (
            *(row["system"], row["component"] + (f", {row['decoder']}" if row["decoder"] != NONE else "")),
            *("yes" if row["compiled"] else "no", number(row["tmacs"]), number(row["seconds"])),
            number(row["tmacs"] / row["seconds"]),
        )
        for row in inner
        if row["component"] != "video"
    ]
    parts.append(markdown.table(("system", "one call a step of", "compiled", "TMAC", "seconds", "TMAC/s"), lines))

    found = pairs(rows)
    lines = [
        (
            f"{one.system} / {one.base}",
            "yes" if one.at["compiled"] else "no",
            *(number(value) for value in (one.seconds, one.tmacs, one.tmacs_paper)),
            *(number(value) for value in (one.utilisation, one.utilisation_paper)),
        )
        for one in found
        if core.items() <= one.at.items() and one.at["decoder"] == NONE and one.at["steps"] == inner[0]["steps"]
    ]
    head = ("pair", "compiled", "seconds", "TMAC", "paper's counting", "utilisation", "in paper's counting")
    parts.append(markdown.table(head, lines))

    base = rows[0]["system"]
    systems = list(dict.fromkeys(one.system for one in found if one.base == base))
    cells = list(dict.fromkeys(tuple(one.at.values()) for one in found))
    by_cell = {(tuple(one.at.values()), one.base, one.system): one for one in found}
    lines = []
    for cell in cells:
        at = dict(zip(SAME, cell, strict=True))
        ratios = [by_cell.get((cell, base, system)) for system in systems]
        texts = [one and f"{number(one.seconds)} ({number(one.utilisation, 2)})" for one in ratios]
        yes = ["yes" if at[key] else "no" for key in ("guidance", "compiled")]
        lines.append((at["resolution"], at["batch"], at["steps"], *yes, at["decoder"], *texts))
    head = ("size", "batch", "steps", "guidance", "compiled", "frame decoder", *(f"{one} / {base}" for one in systems))
    parts.append(f"Seconds, and in brackets utilisation:\n\n{markdown.table(head, lines)}")
    return "\n\n".join(parts)
