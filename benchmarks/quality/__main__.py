"""Quality at equal compute: CMD and small baselines, trained from scratch on the procedural world.

    python -m benchmarks.quality --minutes 600             # rerun it until it reports completion
    python -m benchmarks.quality --only cmd lvdm --budget "one core-hour"
    python -m benchmarks.quality --only "table 4"          # the paper's table 4 at small scale
    python -m benchmarks.quality --table                   # tables and plot of what is measured so far

All diffusion models have the same clips (a third mixed), conditions, objective and optimiser; see systems.py. A probe
trains three sizes of each system for ten CPU minutes, and the size whose mixed videos come closest to real clips goes
on. Then a budget is split among the stages, so that CMD and PVDM pay for their autoencoders: CPU seconds, as steps at
the seconds per step of the probe; multiply-adds, counted; or clips. All is trained by `cmd-lightning fit`, a process of
one thread each, as many at once as there are cores; an interrupted one resumes.

Videos of 128 held-out captions, plain and mixed, are then generated with 4 to 50 steps per stage, guidance 2 for what
reads the caption first and none for motion. Joint accuracy: shape, colour and direction are all classified as the plain
caption says. Distances are on shapes features, to other held-out clips; with the I3D's weights in CMD_I3D_WEIGHTS the
rows have FVD too (of so few clips that it compares with no published one), and `--features` adds other networks.
Intervals are 95 % over seeds. Each row of the JSON file has its training's steps, CPU seconds and multiply-adds.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.cells import Cell, Rows, closing, command_line, measure_cells, missing, read, save
from benchmarks.quality.ablations import ABLATIONS, TABLE_4
from benchmarks.quality.cells import Lab, main_cells, probe_cells, table_4_cells
from benchmarks.quality.measure import Yardstick, feature_spaces
from benchmarks.quality.settings import Settings
from benchmarks.quality.systems import SYSTEMS
from benchmarks.quality.tables import probes, systems, table_4
from benchmarks.trainings import TimeIsUp, Trainings
from cmd_lightning.errors import InputError, check_positive, program
from cmd_lightning.provenance import provenance

RESULTS = Path("benchmarks/results/quality.json")
ENTRIES = (*SYSTEMS, TABLE_4)


def batches(only: Sequence[str], budgets: Sequence[str], seeds: Sequence[int]) -> list[list[Cell]]:
    """The cells in the order of measurement; those of a batch do not depend on each other."""
    chosen = [entry for entry in SYSTEMS if entry in only]
    found = [probe_cells(entry) for entry in chosen]
    found += [main_cells(entry, budget, seeds) for budget in budgets for entry in chosen]
    if TABLE_4 in only:
        found += [table_4_cells([name], seeds) for name in ABLATIONS]
    return found


def run(lab: Lab, found: Sequence[Sequence[Cell]], path: Path, workers: int = 1) -> dict[str, Any]:
    """Trains and measures cells, a batch after the other, and keeps each in the file.

    Args:
        lab: Trains and measures them.
        found: Batches of cells.
        path: The file of results.
        workers: Trainings at the same time.

    Raises:
        TimeIsUp: The time is over; what is trained and measured is kept.
        InputError: A training failed, or the file is of other settings.
    """
    record = {"settings": asdict(lab.settings), "protocol": __doc__} | provenance()
    result: dict[str, Any] = measure_cells([], lambda cell: [], record, path)
    for cells in found:
        rows: Rows = result["rows"]
        waiting = missing(cells, rows)
        if workers > 1:
            with ThreadPoolExecutor(workers) as pool:  # a training is a process; its thread waits for it
                list(pool.map(partial(lab.train, rows=rows), waiting))
        measure: Callable[[Cell], Rows] = partial(lab.measure, rows=rows)
        result = measure_cells(waiting, measure, record, path, minutes=float("inf"))
    return result


def report(result: dict[str, Any], settings: Settings, path: Path) -> str:
    """All tables; the plot is written next to the results."""
    rows: Rows = result["rows"]
    others = dict.fromkeys(space for row in rows for space in row.get("mixed", {}) if space not in ("shapes", "i3d"))
    parts = []
    for budget in settings.budgets:
        if any(row.get("budget") == budget for row in rows):
            parts.append(f"After {budget}:\n\n{systems(rows, budget, settings, list(others))}")
    parts.append(f"Probes:\n\n{probes(rows)}")
    parts.append(f"Table 4:\n\n{table_4(rows, settings)}")
    from benchmarks.quality.plot import plot  # needs matplotlib

    plot(rows, settings, path.with_suffix(".png"))
    return "\n\n".join(parts)


def main() -> int:
    """The command line."""
    parser = command_line(__doc__)
    settings = Settings()
    parser.add_argument("--only", nargs="+", default=ENTRIES, metavar="ENTRY", help=f"{', '.join(ENTRIES)} (all)")
    parser.add_argument("--budget", nargs="+", default=list(settings.budgets), help="by name (default: all)")
    parser.add_argument("--seeds", type=int, default=3, help="from 0 (default: %(default)s)")
    parser.add_argument("--minutes", type=float, default=60.0, help="of training (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="trainings at once (default: all cores)")
    parser.add_argument("--features", nargs="*", default=[], metavar="NAME", help="networks, as frechet:NAME has them")
    parser.add_argument("--root", type=Path, default=Path("outputs/quality"), help="trainings (default: %(default)s)")
    parser.add_argument("--json", type=Path, default=RESULTS, help="results (default: %(default)s)")
    parser.add_argument("--table", action="store_true", help="print and plot what is measured; train nothing")
    options = parser.parse_args()
    for option, given, known in (("--only", options.only, ENTRIES), ("--budget", options.budget, settings.budgets)):
        for name in given:
            if name not in known:
                raise InputError(f"{option} {name}: there is no such one; give {', '.join(known)}")
    check_positive(**{"--seeds": options.seeds, "--workers": options.workers})
    torch.set_num_threads(1)
    if not options.table:
        yardstick = Yardstick(settings.num, feature_spaces(options.features))
        lab = Lab(settings, options.root, Trainings(time.monotonic() + 60 * options.minutes), yardstick)
        found = batches(options.only, options.budget, range(options.seeds))
        try:
            result = run(lab, found, options.json, options.workers)
        except TimeIsUp:
            print("The time is up; the same command resumes from here.")
            return 0
        print(closing([cell for cells in found for cell in cells], result["rows"]))
    text = report(read(options.json), settings, options.json)
    save(text + "\n", options.json.with_suffix(".md"))
    print(text)
    return 0


if __name__ == "__main__":
    program(main)
