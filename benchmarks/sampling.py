"""Quality beside seconds of few-step sampling: solvers and steps on a model of the procedural world.

    OMP_NUM_THREADS=1 python -m benchmarks.sampling shapes32          # choose, on captions of the split "val"
    OMP_NUM_THREADS=1 python -m benchmarks.sampling shapes32 --test dpm++/15 ddim/50     # what was chosen, once

Every setting, such as `dpm++/15` (15 steps a stage), is a cell of the result, and is written at once; a call measures
those that are missing. A cell has, for plain captions and one seed each: the share of videos of which shape, colour and
direction are all read as asked; the kernel distance over shapes features to 512 real clips of a split of their own; and
seconds of processor time a video, prompts in and pixels out, in batches of 32. `--table` prints them; `--plot` draws.
"""

import argparse
import json
import math
import time
from pathlib import Path
from statistics import stdev
from typing import Any

import torch
from torch import Tensor

from benchmarks.quality import BATCH, WEIGHTS, Quality, Settings
from cmd_lightning.commands.files import open_model
from cmd_lightning.diffusion.solvers import SOLVERS
from cmd_lightning.errors import InputError, program
from cmd_lightning.metrics.kernel import kernel_distance
from cmd_lightning.metrics.shapes_features import ShapesFeatures
from cmd_lightning.metrics.shapes_reader import Reading, ShapesReader
from cmd_lightning.provenance import provenance, weights_sha256
from cmd_lightning.video_io import replaced
from cmd_lightning.zoo import model_folder

STEPS = (5, 8, 10, 15, 25, 50)
NUMBERS = {"val": 128, "test": 256}
REFERENCE = 512
GROUPS = 8
"""Parts of the videos whose kernel distances give its standard error."""
SAME = ("weights", "numbers", "reference", "guidance", "dtype")
"""Parts of the protocol that all cells of a file share."""
BASE = "ddim/50"
"""What every setting is compared with: the model's own."""


class Sampling(Quality):
    """Measures settings of one model.

    Args:
        pipeline: the model.
        numbers: captions of each split.
        reference: real clips that the distance is to.
    """

    def __init__(self, pipeline: Any, numbers: dict[str, int], reference: int) -> None:
        super().__init__(pipeline, Settings(), Path())
        self.numbers, self.own = numbers, (pipeline.scheduler, pipeline.motion_scheduler)
        self.reference = self.features_of(self.clips(reference, split="reference", level="plain")[1])

    def cell(self, split: str, setting: str) -> dict[str, Any]:
        """What `setting`, as SOLVER/STEPS, gives on the captions of `split`."""
        name, steps = setting.split("/")
        self.pipeline.scheduler, self.pipeline.motion_scheduler = self.own
        self.pipeline.use_solver(name)
        scenes, _ = self.clips(self.numbers[split], split=split, level="plain")
        begun = time.process_time()
        video = self.generate([scene.caption for scene in scenes], int(steps))
        seconds = (time.process_time() - begun) / len(scenes)
        readings, expected = self.reader.read(video), list(map(Reading.of, scenes))
        features = self.features_of(video)
        parts = [float(kernel_distance(part, self.reference)) for part in features.chunk(GROUPS)]
        result: dict[str, Any] = {
            "num": len(scenes),
            "hits": "".join(str(int(a == b)) for a, b in zip(readings, expected, strict=True)),
            "none": sum(reading.none for reading in readings) / len(readings),
            "kernel_distance": float(kernel_distance(features, self.reference)),
            "kernel_distance_error": stdev(parts) / math.sqrt(GROUPS),
            "kernel_distance_parts": parts,
            "seconds": seconds,
        }
        for question in ("shape", "colour", "direction"):
            right = [getattr(a, question) == getattr(b, question) for a, b in zip(readings, expected, strict=True)]
            result[question] = sum(right) / len(right)
        return result

    @torch.no_grad()
    def features_of(self, video: Tensor) -> Tensor:
        """Shapes features of clips, (N, D)."""
        return torch.cat([self.features(part) for part in video.split(BATCH)])


def accuracy(cell: dict[str, Any]) -> tuple[float, float]:
    """Share of videos that show what was asked, and its standard error."""
    share = cell["hits"].count("1") / cell["num"]
    return share, math.sqrt(share * (1 - share) / cell["num"])


def difference(cell: dict[str, Any], base: dict[str, Any]) -> tuple[float, float]:
    """Accuracy less that of another setting, and its standard error, caption by caption and seed by seed."""
    deltas = [int(own) - int(other) for own, other in zip(cell["hits"], base["hits"], strict=True)]
    return sum(deltas) / len(deltas), stdev(deltas) / math.sqrt(len(deltas))


def table(result: dict[str, Any]) -> str:
    """The cells as Markdown."""
    rows = [
        "| split | solver | steps | accuracy | against DDIM, 50 | kernel distance | seconds a video |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    cells = result["cells"]
    for name, cell in cells.items():
        split, solver, steps = name.split("/")
        base = cells.get(f"{split}/{BASE}")
        against = "" if base in (None, cell) else "{:+.3f} ± {:.3f}".format(*difference(cell, base))
        rows.append(
            f"| {split} | {solver} | {steps} | {{:.3f}} ± {{:.3f}} | {against} | {cell['kernel_distance']:.3f} ± "
            f"{cell['kernel_distance_error']:.3f} | {cell['seconds']:.3f} |".format(*accuracy(cell))
        )
    return "\n".join(rows)


def plot(result: dict[str, Any], path: Path) -> None:
    """Accuracy and kernel distance over seconds a video, a curve for each solver."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(10, 4))
    for name in SOLVERS:
        found = [(key, cell) for key, cell in result["cells"].items() if key.startswith(f"val/{name}/")]
        seconds = [cell["seconds"] for _, cell in found]
        means, errors = zip(*(accuracy(cell) for _, cell in found), strict=True)
        axes[0].errorbar(seconds, means, errors, marker="o", label=name, capsize=2)
        values = [cell["kernel_distance"] for _, cell in found]
        axes[1].errorbar(seconds, values, [cell["kernel_distance_error"] for _, cell in found], marker="o", capsize=2)
        for (key, _), x, y in zip(found, seconds, means, strict=True):
            axes[0].annotate(key.rpartition("/")[2], (x, y), textcoords="offset points", xytext=(4, 4), fontsize=7)
    axes[0].set_ylabel("accuracy (shape, colour, direction)")
    axes[1].set_ylabel("kernel distance")
    for axis in axes:
        axis.set_xlabel("processor seconds a video")
    axes[0].legend()
    figure.tight_layout()
    figure.savefig(path, dpi=90)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="zoo name or model folder")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/sampling.json"), help="JSON of the result")
    parser.add_argument("--settings", nargs="*", default=[], help="SOLVER/STEPS to measure on val, by default all")
    parser.add_argument("--test", nargs="*", default=[], help="SOLVER/STEPS to measure on test, once chosen")
    parser.add_argument("--num", type=int, help="captions, instead of 128 (val) and 256 (test)")
    parser.add_argument("--reference", type=int, default=REFERENCE, help="real clips that the distance is to")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="of the networks")
    parser.add_argument("--table", action="store_true", help="print what the file holds and measure nothing")
    parser.add_argument("--plot", type=Path, help="draw what the file holds and measure nothing")
    options = parser.parse_args()
    numbers = NUMBERS if options.num is None else dict.fromkeys(NUMBERS, options.num)
    if options.table or options.plot:
        result = json.loads(options.out.read_text())
        if options.table:
            print(table(result))
        if options.plot:
            plot(result, options.plot)
        return 0
    every = [f"{name}/{steps}" for steps in reversed(STEPS) for name in SOLVERS]
    chosen = [f"test/{setting}" for setting in options.test]
    chosen = chosen or [f"val/{setting}" for setting in options.settings or every]
    for wrong in {name.partition("/")[2] for name in chosen} - set(every):
        raise InputError(f"{wrong}: give SOLVER/STEPS of {', '.join(SOLVERS)} and {', '.join(map(str, STEPS))}")
    weights = {
        "model": weights_sha256(model_folder(options.model)),
        "yardstick": {name: weights_sha256(WEIGHTS / name) for name in (ShapesReader.WEIGHTS, ShapesFeatures.WEIGHTS)},
    }
    pipeline = open_model(options.model, options.dtype)
    guidance = {stage: pipeline.sampling(stage)[1] for stage in ("content", "motion")}
    protocol = {
        **{"weights": weights, "numbers": numbers, "reference": options.reference, "guidance": guidance},
        **{"dtype": options.dtype, "batch": BATCH, "threads": torch.get_num_threads(), "device": str(pipeline.device)},
    } | provenance()
    result = json.loads(options.out.read_text()) if options.out.is_file() else {"protocol": protocol, "cells": {}}
    if any(result["protocol"].get(part) != protocol[part] for part in SAME):
        raise InputError(f"--out {options.out}: it was measured otherwise; give another file, or delete it")
    missing = [name for name in chosen if name not in result["cells"]]
    sampling = Sampling(pipeline, numbers, options.reference) if missing else None
    for name in missing:
        split, _, setting = name.partition("/")
        result["cells"][name] = sampling.cell(split, setting)
        options.out.parent.mkdir(parents=True, exist_ok=True)
        with replaced(options.out) as draft:
            draft.write_text(json.dumps(result, indent=1) + "\n")
        print(f"{name}: {json.dumps(result['cells'][name])}", flush=True)
    return 0


if __name__ == "__main__":
    program(main)
