"""Quality and speed of few-step sampling: solvers and steps on a model of the procedural world.

    OMP_NUM_THREADS=1 python -m benchmarks.sampling shapes32paper          # choose, on captions of the split "val"
    OMP_NUM_THREADS=1 python -m benchmarks.sampling shapes32paper --test dpm++/10 ddim/50     # what was chosen, once
    OMP_NUM_THREADS=1 python -m benchmarks.sampling shapes32 --students lcm=DIR scm=DIR --json FILE    # and distilled

Every setting, such as `dpm++/10` (10 steps per stage) on a split, is a cell of the result: the JSON file keeps it, and
another call continues with the next. Its row has, for plain captions and one seed each: `hits`, a digit for each video,
1 if shape, colour and direction are all classified as the caption says; the kernel distance on shapes features to 512
real clips of another split; and seconds per video (CPU seconds on a CPU), prompts in and pixels out, in batches of 32.
Students of the model are folders, as exported with distilled stages, and are listed with the solvers, under the given
names; they sample with their own scheduler and guidance. `--table` prints the rows; `--plot` draws them.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import stdev
from typing import Any

from benchmarks.cells import Cell, Rows, check_device, clock, closing, measure_cells, measuring, read, stamped
from benchmarks.shapes.quality import BATCH, STAGES, answered, clips, features_of, generate, measured_with
from cmd_lightning import markdown
from cmd_lightning.commands.files import open_model
from cmd_lightning.diffusion.solvers import SOLVERS
from cmd_lightning.errors import InputError, program
from cmd_lightning.metrics.kernel import kernel_distance
from cmd_lightning.pipeline import CMDPipeline
from cmd_lightning.provenance import provenance
from cmd_lightning.shapes.features import ShapesFeatures
from cmd_lightning.shapes.reader import Reading, ShapesReader

STEPS = (5, 8, 10, 15, 25, 50)
FEW = (1, 2, 4, 8)  # steps of a student
TEACHER = tuple(name for name in SOLVERS if name != "lcm")  # which is for students
NUMBERS = {"val": 128, "test": 256}
GROUPS = 8  # parts of the videos whose kernel distances give its standard error
BASE = ("ddim", 50)  # what every setting is compared with: the model's own


class Sampling:
    """Measures settings of one model and its students, with captions by split, against `reference` real clips."""

    def __init__(
        self,
        pipeline: CMDPipeline,
        numbers: Mapping[str, int],
        reference: int,
        students: Mapping[str, CMDPipeline] | None = None,
    ) -> None:
        self.pipeline, self.numbers, self.students = pipeline, numbers, students or {}
        for each in (pipeline, *self.students.values()):
            each.set_progress_bar_config(disable=True)
        self.own = pipeline.scheduler, pipeline.motion_scheduler
        self.reader, self.features = ShapesReader.from_pretrained(), ShapesFeatures.from_pretrained()
        real = clips(pipeline, reference, split="reference", level="plain")[1]
        self.reference = features_of(self.features, real)

    def measure(self, cell: Cell) -> Rows:
        """The row of a setting on the captions of a split."""
        pipeline = self.students.get(cell["solver"]) or self.solved_by(cell["solver"])
        scenes, _ = clips(pipeline, self.numbers[cell["split"]], split=cell["split"], level="plain")
        begun = clock(pipeline.device)
        video = generate(pipeline, [scene.caption for scene in scenes], cell["steps"])
        seconds = (clock(pipeline.device) - begun) / len(scenes)
        readings, expected = self.reader.read(video), list(map(Reading.of, scenes))
        features = features_of(self.features, video)
        parts = [float(kernel_distance(part, self.reference)) for part in features.chunk(GROUPS)]
        row = {
            "num": len(scenes),
            "hits": "".join(str(int(a == b)) for a, b in zip(readings, expected, strict=True)),
            "none": sum(reading.none for reading in readings) / len(readings),
            "kernel_distance": float(kernel_distance(features, self.reference)),
            "kernel_distance_error": stdev(parts) / math.sqrt(GROUPS),
            "kernel_distance_parts": parts,
            "seconds": seconds,
        }
        return [stamped(row | answered(readings, expected))]

    def solved_by(self, solver: str) -> CMDPipeline:
        """The model with a solver in both stages."""
        self.pipeline.scheduler, self.pipeline.motion_scheduler = self.own
        self.pipeline.use_solver(solver)
        return self.pipeline


def accuracy(row: Mapping[str, Any]) -> tuple[float, float]:
    """Share of videos that show what was asked, and its standard error."""
    share = row["hits"].count("1") / row["num"]
    return share, math.sqrt(share * (1 - share) / row["num"])


def difference(row: Mapping[str, Any], base: Mapping[str, Any]) -> tuple[float, float]:
    """Accuracy less that of another setting, and its standard error, caption by caption and seed by seed."""
    deltas = [int(own) - int(other) for own, other in zip(row["hits"], base["hits"], strict=True)]
    return sum(deltas) / len(deltas), stdev(deltas) / math.sqrt(len(deltas))


def table(result: Mapping[str, Any]) -> str:
    """The rows as Markdown."""
    bases = {row["split"]: row for row in result["rows"] if (row["solver"], row["steps"]) == BASE}
    lines = []
    for row in result["rows"]:
        base = bases.get(row["split"])
        against = None if base in (None, row) else "{:+.3f} ± {:.3f}".format(*difference(row, base))
        distance = f"{row['kernel_distance']:.3f} ± {row['kernel_distance_error']:.3f}"
        what = row["split"], row["solver"], row["steps"], "{:.3f} ± {:.3f}".format(*accuracy(row))
        lines.append((*what, against, distance, f"{row['seconds']:.3f}"))
    head = ("split", "solver", "steps", "accuracy", "against DDIM, 50", "kernel distance", "seconds per video")
    return markdown.table(head, lines)


def plot(result: Mapping[str, Any], path: Path) -> None:
    """Accuracy and kernel distance over seconds per video, a curve for each solver."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(10, 4))
    for name in dict.fromkeys(row["solver"] for row in result["rows"] if row["split"] == "val"):
        found = [row for row in result["rows"] if (row["split"], row["solver"]) == ("val", name)]
        seconds = [row["seconds"] for row in found]
        means, errors = zip(*map(accuracy, found), strict=True)
        axes[0].errorbar(seconds, means, errors, marker="o", label=name, capsize=2)
        values = [row["kernel_distance"] for row in found]
        axes[1].errorbar(seconds, values, [row["kernel_distance_error"] for row in found], marker="o", capsize=2)
        for row, x, y in zip(found, seconds, means, strict=True):
            axes[0].annotate(row["steps"], (x, y), textcoords="offset points", xytext=(4, 4), fontsize=7)
    axes[0].set_ylabel("accuracy (shape, colour, direction)")
    axes[1].set_ylabel("kernel distance")
    for axis in axes:
        axis.set_xlabel("seconds per video")
    axes[0].legend()
    figure.tight_layout()
    figure.savefig(path, dpi=90)


def students_of(given: list[str]) -> dict[str, str]:
    """The folders of students by name, from NAME=FOLDER."""
    folders = {}
    for text in given:
        name, equals, folder = text.partition("=")
        if not (name and equals and folder) or name in (*SOLVERS.keys() - {"lcm"}, *folders):
            raise InputError(f"--students {text}: give NAME=FOLDER, with another name than a solver's or student's")
        folders[name] = folder
    return folders


def cells(test: list[str], val: list[str], students: Sequence[str] = ()) -> list[Cell]:
    """The chosen settings, SOLVER/STEPS: those of the split "test", without such those of "val", by default all."""
    every = {f"{name}/{steps}": {"solver": name, "steps": steps} for steps in reversed(STEPS) for name in TEACHER}
    every |= {f"{name}/{steps}": {"solver": name, "steps": steps} for steps in reversed(FEW) for name in students}
    chosen = test or val or list(every)
    for wrong in set(chosen) - every.keys():
        raise InputError(f"{wrong}: give SOLVER/STEPS, one of {', '.join(every)}")
    return [{"split": "test" if test else "val", **every[setting]} for setting in chosen]


def main() -> int:
    """The command line."""
    parser = measuring(__doc__, "benchmarks/results/sampling.json", "cpu")
    parser.add_argument("model", help="zoo name or model folder")
    parser.add_argument("--settings", nargs="*", default=[], help="SOLVER/STEPS to measure on val, by default all")
    parser.add_argument("--test", nargs="*", default=[], help="SOLVER/STEPS to measure on test, once chosen")
    parser.add_argument("--students", nargs="*", default=[], help="NAME=FOLDER of models distilled from it")
    parser.add_argument("--num", type=int, help="captions, instead of 128 (val) and 256 (test)")
    parser.add_argument("--reference", type=int, default=512, help="real clips that the distance is to")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="of the networks")
    parser.add_argument("--table", action="store_true", help="print what the file holds and measure nothing")
    parser.add_argument("--plot", type=Path, help="draw what the file holds and measure nothing")
    options = parser.parse_args()
    if options.table:
        print(table(read(options.json)))
    if options.plot:
        plot(read(options.json), options.plot)
    if options.table or options.plot:
        return 0
    folders = students_of(options.students)
    chosen = cells(options.test, options.settings, tuple(folders))
    check_device(options.device)
    pipeline = open_model(options.model, options.dtype).to(options.device)
    students = {name: open_model(folder, options.dtype).to(options.device) for name, folder in folders.items()}
    settings = {
        "weights": measured_with(options.model),
        "numbers": NUMBERS if options.num is None else dict.fromkeys(NUMBERS, options.num),
        "reference": options.reference,
        "guidance": {stage: pipeline.sampling(stage)[1] for stage in STAGES},
        "dtype": options.dtype,
        "batch": BATCH,
        "device": options.device,
    }
    if students:
        settings["students"] = {
            name: {
                "weights": measured_with(folders[name])["model"],
                "guidance": {stage: student.sampling(stage)[1] for stage in STAGES},
            }
            for name, student in students.items()
        }
    record = {"settings": settings, "protocol": __doc__} | provenance()
    sampling = Sampling(pipeline, settings["numbers"], options.reference, students)
    result = measure_cells(chosen, sampling.measure, record, options.json, options.minutes)
    print(closing(chosen, result["rows"]))
    return 0


if __name__ == "__main__":
    program(main)
