"""The cost of a video: CMD and other text-to-video systems, counted and measured alike, next to the paper's figures.

    python -m benchmarks.efficiency --counts                  # on any machine, in a minute
    python -m benchmarks.efficiency                           # on a GPU; rerun until it reports completion
    python -m benchmarks.efficiency --scale fifth --device cpu
    python -m benchmarks.efficiency --profile                 # which operators take the time

`--counts` builds every network on the meta device and counts parameters and multiply-adds (MACs) of a call, of a step
and of a video, without and with guidance. The paper's counting leaves out the products within attention, and
counts CMD's whole autoencoder for every video, the encoder too. "In full" includes these products, and only the
decoder of the autoencoder, as sampling needs no encoder.

Without it, samples are timed: every system with random weights, its text encoded beforehand, DDIM through the
project's own sampling loop, weights and latents in bf16 (float32 on a CPU), 2-D convolutions channels last, torch's
fused attention, and with `compiled` every network through torch.compile with CUDA graphs. No system gets what another
does not. A core cell (512x1024, batch 1, 50 steps, no guidance) is timed as a whole, the median of `rounds` videos
after a warm-up; seconds of a row with `extrapolated` are steps times the median step, plus the autoencoder once.
Seconds of a frame decoder are added, not overlapped. Memory is the most that tensors took, weights included. On a CPU
one thread is used, seconds are CPU seconds, and the systems take turns, so that other work on the machine has little
effect, and the same one on all.

A cell is measured once: the JSON file keeps it, another call continues with the next, core cells first. Its `rows` have
the fields of benchmarks/efficiency/rows.py; tables (.md) and a plot (.svg) are written next to it. It needs torch,
diffusers, jsonargparse and PyYAML, and for the plot matplotlib.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmarks.cells import check_writable, closing, device_name, measure_cells, measuring, save, written
from benchmarks.efficiency.counts import count_rows
from benchmarks.efficiency.rows import RESOLUTIONS
from benchmarks.efficiency.scales import PAPER, SCALES
from benchmarks.efficiency.tables import counts_tables, headline_table, timing_tables
from benchmarks.efficiency.timing import Settings, cells, measure, profile_table
from cmd_lightning.commands.files import tell
from cmd_lightning.errors import InputError, program
from cmd_lightning.provenance import provenance

RESULTS = Path("benchmarks/results")
CPU = {"dtype": "float32", "together": True, "compiled": (False,), "warm_up": 1}
AT: dict[str, dict[str, Any]] = {
    "fifth": {"resolutions": ("256x256",), "batches": (1,), "guidance": (False,), "steps": (5, 50)},
    "shapes32": {"resolutions": ("32x32",), "batches": (1,), "guidance": (False,), "steps": (10, 50)},
}
"""What is measured of the systems of a scale."""
TAKES = {"counts": ("json", "device"), "profile": ("scale", "size", "device")}
"""The other options that these take; a count is the same on any device."""


def count() -> dict[str, Any]:
    """Counts all systems at their published sizes."""
    rows = count_rows(PAPER, dict.fromkeys(RESOLUTIONS.values()), progress=tell)
    return provenance() | {"protocol": __doc__, "rows": rows}


def time(settings: Settings, path: Path, minutes: float) -> dict[str, Any]:
    """Measures the cells that `path` does not hold yet, as long as there is time, and draws them."""
    about = provenance() | {"hardware": device_name(torch.device(settings.device))}
    record = about | {"settings": asdict(settings), "protocol": __doc__}
    result = measure_cells(cells(settings), lambda cell: measure(cell, settings), record, path, minutes)
    if not result["rows"]:
        raise InputError(f"--minutes {minutes:g}: no cell has been measured; give more")
    from benchmarks.efficiency.plot import plot_timing  # needs matplotlib

    plot_timing(result["rows"], path.with_suffix(".svg"), settings.core | {"steps": settings.steps[0]})
    return result


def show(text: str, path: Path) -> None:
    """Prints tables and writes them next to their results."""
    path.with_suffix(".md").write_text(text + "\n")
    print(text)


def main() -> int:
    """The command line."""
    parser = measuring(__doc__, None)
    parser.add_argument("--counts", action="store_true", help="count, and time nothing")
    parser.add_argument("--profile", action="store_true", help="time nothing, but show which operators take the time")
    parser.add_argument("--scale", default="paper", help=f"of the networks: {', '.join(SCALES)} (default: %(default)s)")
    parser.add_argument("--size", help="of the videos, HEIGHTxWIDTH (default: all of the scale)")
    parser.add_argument("--rounds", type=int, default=Settings.rounds, help="of which the median counts (%(default)s)")
    options = parser.parse_args()
    for verb, own in TAKES.items():
        for name, value in vars(options).items() if getattr(options, verb) else ():
            if name not in (verb, *own) and value != parser.get_default(name):
                raise InputError(f"--{verb} takes no --{name}; leave one of them out")
    if options.rounds < 1:
        raise InputError(f"--rounds {options.rounds}: give at least 1")
    if options.counts:
        if str(options.json) == "-":
            print(written(count()), end="")
            return 0
        path = options.json or RESULTS / "efficiency_counts.json"
        check_writable(path)
        result = count()
        save(written(result), path)
        from benchmarks.efficiency.plot import plot_counts

        plot_counts(result["rows"], path.with_suffix(".svg"), RESOLUTIONS["9"], 50)
        show(counts_tables(result["rows"]), path)
        return 0
    changes = AT.get(options.scale, {}) | (CPU if options.device == "cpu" else {})
    changes |= {"resolutions": (options.size,)} if options.size else {}
    settings = Settings(options.scale, **changes | {"device": options.device, "rounds": options.rounds})
    if options.profile:
        print(profile_table(settings))
        return 0
    path = options.json or RESULTS / f"efficiency_{options.scale}_{options.device}.json"
    if str(path) == "-":
        raise InputError("--json -: a call continues from what the last one kept, so give a file")
    result = time(settings, path, options.minutes)
    text = timing_tables(result["rows"], settings.core)
    show(text + ("\n\n" + headline_table(result["rows"]) if options.scale == "paper" else ""), path)
    print(closing(cells(settings), result["rows"]))
    return 0


if __name__ == "__main__":
    program(main)
