"""The results as Markdown tables: counts, measurements, the paper's figures, and ratios."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

from benchmarks import ledger
from benchmarks.cells import read
from benchmarks.efficiency.rows import NONE, RESOLUTIONS, Row, fits, paper
from cmd_lightning.markdown import table

RESULTS = Path(__file__).parent.parent / "results"
STEPS = 50
"""Of the videos in docs/benchmarks/efficiency.md."""
OWNERS = {"CMD": "Stable Diffusion", "LTX": "LTX"}
"""Whose frame decoders the systems have; the other systems have the first's."""
YES = {True: "yes", False: "no"}
SAME = ("resolution", "steps", "batch", "guidance", "compiled", "dtype", "decoder", "device")
"""What two rows must share to be compared."""


class Ratio(NamedTuple):
    """How many times as much `system` takes as `base` for a video, where their rows share the values `at` of `SAME`."""

    base: str
    system: str
    at: Row
    seconds: float
    tmacs: float
    tmacs_paper: float

    @property
    def utilisation(self) -> float:
        """Multiply-adds per second of `base` over those of `system`: the part of the saving that arrives as time."""
        return self.seconds / self.tmacs

    @property
    def utilisation_paper(self) -> float:
        """The same in the paper's counting."""
        return self.seconds / self.tmacs_paper


def pairs(rows: Iterable[Row]) -> list[Ratio]:
    """The ratios of every two systems in every cell that both were timed in, the first system of the rows as base."""
    cells: dict[tuple[object, ...], list[Row]] = defaultdict(list)
    for row in rows:
        if row["component"] == "video" and row["seconds"] is not None:
            cells[tuple(row[key] for key in SAME)].append(row)
    return [
        Ratio(
            base["system"],
            other["system"],
            dict(zip(SAME, cell, strict=True)),
            *(other[key] / base[key] for key in ("seconds", "tmacs", "tmacs_paper")),
        )
        for cell, found in cells.items()
        for base, other in combinations(found, 2)
    ]


def number(value: float | None, digits: int = 3) -> str | None:
    """A number with so many digits that count, and all of those before the point."""
    if value is None:
        return None
    return f"{value:.0f}" if abs(value) >= 10**digits else f"{value:#.{digits}g}".rstrip(".")


def compared(row: Row, key: str) -> tuple[float | None, str | None]:
    """The paper's figure for a row, and the deviation of the row from it."""
    given = paper(row, key)
    return given, given and f"{round(100 * (row[key] / given - 1), 1) + 0.0:+.1f} %"  # no -0.0


def counts_tables(rows: Sequence[Row]) -> str:
    """Calls of networks, videos, parameters, and the paper's ratios."""
    calls = []
    for row in rows:
        decoding = row["component"] == "frame decoder"
        if row["steps"] is None and (not decoding or row["system"] in OWNERS):
            system = OWNERS[row["system"]] if decoding else row["system"]
            name = f"{row['component']}, {row['decoder']}" if decoding else row["component"]
            counted = f"{row['params'] / 1e6:.1f}", number(row["tmacs"]), number(row["tmacs_paper"])
            calls.append((system, name, row["resolution"], *counted, *compared(row, "tmacs_paper")))
    head = ("system", "network", "size", "parameters, M", "TMAC", "TMAC, paper's counting", "paper", "deviation")
    parts = [table(head, calls)]

    keys = ("guidance", "decoder", "system", "resolution", "steps")
    whole = {tuple(row[key] for key in keys): row for row in rows if row["component"] == "video"}
    plain = {at[2:]: row for at, row in whole.items() if at[:2] == (False, NONE)}
    lines = []
    for at, row in plain.items():
        ways = ((False, NONE), (True, NONE), (False, "full"), (False, "tiny"))
        numbers = (number(whole[*way, *at]["tmacs"]) if (*way, *at) in whole else None for way in ways)
        lines.append((*at, *numbers, number(row["tmacs_paper"], 4), *compared(row, "tmacs_paper")))
    head = ("system", "size", "steps", "TMAC", "with guidance", "with the frame decoder", "with the tiny one")
    parts.append(table((*head, "TMAC, paper's counting", "paper", "deviation"), lines))

    parameters = []
    for system, row in {row["system"]: row for row in plain.values()}.items():
        given, deviation = compared(row, "params")
        parameters.append((system, f"{row['params'] / 1e9:.3f}", given and given / 1e9, deviation))
    parts.append(table(("system", "parameters, B", "paper", "deviation"), parameters))
    return "\n\n".join([*parts, headline_table(rows)])


def headline_table(rows: Sequence[Row]) -> str:
    """The ratios that the paper claims of table 9 (no guidance, no frame decoder): from its figures, and ours."""
    kinds = {row["compiled"] for row in rows}
    columns = {name: kind for name, kind in (("counted", None), ("eager", False), ("compiled", True)) if kind in kinds}
    lines = [
        (
            *(f"{claim.printed:g} {claim.unit}".strip(), claim.defined, number(ledger.value(claim))),
            *(number(ledger.measured(claim, rows, compiled=kind)) for kind in columns.values()),
        )
        for claim in ledger.claims()
        if claim.ratio.get("table") == 9
    ]
    head = ("claim", "definition", "from the paper's figures", *(f"ours, {name}" for name in columns))
    return table(head, lines)


def timing_tables(rows: Sequence[Row], core: Row) -> str:
    """The core cell with all frame decoders, its parts, its ratios, and the ratios to the first system everywhere."""
    inner = [row for row in rows if fits(row, core)]
    videos, networks = [], []
    for row in inner:
        missing, compiled = row["seconds"] is None, YES[row["compiled"]]
        rate = None if missing else number(row["tmacs"] / row["seconds"])
        if row["component"] == "video":
            seconds = "did not fit" if missing else ("≈ " if row["extrapolated"] else "") + number(row["seconds"])
            what = row["system"], row["steps"], compiled, row["decoder"], number(row["tmacs"])
            memory = number(row["memory_gb"]), paper(row, "memory_gb")
            videos.append((*what, seconds, paper(row, "seconds"), rate, *memory))
        else:
            name = row["component"] + (f", {row['decoder']}" if row["decoder"] != NONE else "")
            networks.append((row["system"], name, compiled, number(row["tmacs"]), number(row["seconds"]), rate))
    head = ("system", "steps", "compiled", "frame decoder", "TMAC", "seconds", "paper", "TMAC/s", "memory, GB", "paper")
    parts = [table(head, videos)]
    parts.append(table(("system", "one call per step of", "compiled", "TMAC", "seconds", "TMAC/s"), networks))

    found = pairs(rows)
    lines = []
    for one in found:
        if fits(one.at, {**core, "decoder": NONE, "steps": inner[0]["steps"]}):
            values = (one.seconds, one.tmacs, one.tmacs_paper, one.utilisation, one.utilisation_paper)
            lines.append((f"{one.system} / {one.base}", YES[one.at["compiled"]], *map(number, values)))
    head = ("pair", "compiled", "seconds", "TMAC", "paper's counting", "utilisation", "in paper's counting")
    parts.append(table(head, lines))

    base = rows[0]["system"]
    cells: dict[tuple[object, ...], dict[str, str]] = {}
    for one in found:
        how = YES[one.at["guidance"]], YES[one.at["compiled"]], one.at["decoder"]
        ratios = cells.setdefault((one.at["resolution"], one.at["batch"], one.at["steps"], *how), {})
        if one.base == base:
            ratios[one.system] = f"{number(one.seconds)} ({number(one.utilisation, 2)})"
    systems = list(dict.fromkeys(one.system for one in found if one.base == base))
    lines = [(*cell, *map(ratios.get, systems)) for cell, ratios in cells.items()]
    head = ("size", "batch", "steps", "guidance", "compiled", "frame decoder", *(f"{one} / {base}" for one in systems))
    return "\n\n".join([*parts, f"Seconds, and in brackets utilisation:\n\n{table(head, lines)}"])


def counted() -> str:
    """For docs/benchmarks/efficiency.md: what a video takes at the paper's resolution of sampling, without guidance."""
    rows = read(RESULTS / "efficiency_counts.json")["rows"]
    at = {"resolution": RESOLUTIONS["9"], "guidance": False}
    whole = videos(rows, **at)
    lines = []
    for step in (row for row in rows if fits(row, at | {"component": "step"})):
        row = whole[step["system"], NONE]
        decoded = (whole.get((step["system"], decoder)) for decoder in ("full", "tiny"))
        params = paper(row, "params")
        parameters = f"{row['params'] / 1e9:.3f}", params and f"{params / 1e9:g}"
        full = number(row["tmacs"]), number(step["tmacs"]), *(one and number(one["tmacs"]) for one in decoded)
        lines.append((row["system"], *parameters, number(row["tmacs_paper"], 4), paper(row, "tmacs_paper"), *full))
    head = ("system", "parameters, B", "paper", "paper's counting", "paper", "in full", "per step, in full")
    return table((*head, "with the frame decoder", "with the tiny one"), lines)


def measured(scale: str) -> str:
    """For docs/benchmarks/efficiency.md: seconds of a video on a CPU, next to the first system's; "≈": fewer steps."""
    rows = read(RESULTS / f"efficiency_{scale}_cpu.json")["rows"]
    whole = videos(rows)
    base, *_ = (system for system, _ in whole)
    names = {NONE: "", "full": ", with the frame decoder", "tiny": ", with the tiny one"}
    lines = []
    for (system, decoder), row in whole.items():
        about = "≈ " if row["extrapolated"] else ""
        calls = [one["tmacs"] for one in rows if one["system"] == system and one["steps"] == 1]
        over: list[str | None] = [None] * 3
        if system != base and (first := whole.get((base, decoder))):
            seconds, tmacs = (row[key] / first[key] for key in ("seconds", "tmacs"))
            over = [about + number(seconds), number(tmacs), about + number(seconds / tmacs)]
        step = number(1e3 * sum(calls)) if decoder == NONE else None
        rate = about + number(1e3 * row["tmacs"] / row["seconds"])
        lines.append((system + names[decoder], about + number(row["seconds"]), step, rate, *over))
    of = f"over {base}'s"
    head = (f"{STEPS} steps", "seconds per video", "GMAC per step", "GMAC/s", f"seconds {of}", f"multiply-adds {of}")
    return table((*head, "utilisation"), lines)


def videos(rows: Sequence[Row], **at: object) -> dict[tuple[str, str], Row]:
    """The rows of whole videos, by system and frame decoder."""
    wanted = {"component": "video", "steps": STEPS, **at}
    return {(row["system"], row["decoder"]): row for row in rows if fits(row, wanted)}
