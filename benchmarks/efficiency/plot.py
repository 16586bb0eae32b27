"""The results as SVG plots."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt

from benchmarks.efficiency.rows import NONE, Row, fits, paper

OURS, THEIRS, SOFT = "#d9480f", "#2563eb", "0.6"


def plot_counts(rows: Sequence[Row], path: Path, resolution: str, steps: int) -> None:
    """Multiply-adds of a video in both countings, compared with the paper's figures, and with the frame decoder."""
    fixed = {"component": "video", "resolution": resolution, "steps": steps, "guidance": False}
    plain = [row for row in rows if fits(row, fixed | {"decoder": NONE})]
    whole = {row["system"]: row["tmacs"] for row in rows if fits(row, fixed | {"decoder": "full"})}
    figure, axis = plt.subplots(figsize=(8, 4), layout="constrained")
    series = {
        "paper's counting (no attention products)": [row["tmacs_paper"] for row in plain],
        "in full": [row["tmacs"] for row in plain],
        "in full, with the frame decoder": [whole.get(row["system"], row["tmacs"]) for row in plain],
    }
    for place, (colour, (label, values)) in enumerate(zip((THEIRS, OURS, SOFT), series.items(), strict=True)):
        axis.bar([at + 0.27 * (place - 1) for at in range(len(plain))], values, 0.27, color=colour, label=label)
    printed = {at - 0.27: value for at, row in enumerate(plain) if (value := paper(row, "tmacs_paper"))}
    if printed:
        axis.plot([*printed], [*printed.values()], "k_", markersize=16, label="paper, table 9")
    axis.set_xticks(range(len(plain)), [row["system"] for row in plain])
    axis.set(yscale="log", ylabel="multiply-adds in T", title=f"a video of {resolution}, {steps} steps, no guidance")
    axis.grid(axis="y", alpha=0.3)
    figure.legend(loc="outside lower center", ncols=4, fontsize=8)
    _save(figure, path)


def plot_timing(rows: Sequence[Row], path: Path, core: Row) -> None:
    """Seconds against multiply-adds of a video of the core cell; along a line the device is used equally well."""
    shown = [row for row in rows if fits(row, {**core, "component": "video"}) and row["seconds"]]
    figure, axis = plt.subplots(figsize=(7, 5), layout="constrained")
    marks = {NONE: "o", "full": "s", "tiny": "^"}
    base = shown[0]
    for row in shown:
        colour = OURS if row["system"] == base["system"] else THEIRS
        fill = "none" if row["compiled"] else colour
        axis.plot(row["tmacs"], row["seconds"], marks[row["decoder"]], color=colour, markerfacecolor=fill)
        if row["decoder"] == NONE and row["compiled"] == base["compiled"]:
            where = row["tmacs"], row["seconds"]
            axis.annotate(row["system"], where, (0, 7), fontsize=9, textcoords="offset points", ha="center")
    ends = [min(row["tmacs"] for row in shown) / 1.5, max(row["tmacs"] for row in shown) * 1.5]
    axis.plot(ends, [end * base["seconds"] / base["tmacs"] for end in ends], color=SOFT, linewidth=1)
    for decoder, mark in marks.items():
        if any(row["decoder"] == decoder for row in shown):
            label = "latents" if decoder == NONE else f"with the {decoder} frame decoder"
            axis.plot([], [], mark, color="0.3", label=label)
    if any(row["compiled"] for row in shown):
        axis.plot([], [], "o", color="0.3", markerfacecolor="none", label="compiled")
    axis.plot([], [], color=SOFT, label=f"as well used as by {base['system']}")
    about = f"{base['resolution']}, {base['steps']} steps, batch {base['batch']}, {base['dtype']}"
    axis.set(xscale="log", yscale="log", xlabel="multiply-adds of a video in T", ylabel="seconds", title=about)
    axis.margins(0.1)
    axis.grid(alpha=0.3, which="both")
    axis.legend(fontsize=8)
    _save(figure, path)


def _save(figure: object, path: Path) -> None:
    with plt.rc_context({"svg.hashsalt": "efficiency"}):  # the same plot gives the same file
        figure.savefig(path, metadata={"Date": None}, dpi=100)
    plt.close(figure)
