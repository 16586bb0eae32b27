"""The cells of the queue: how each is trained and measured, and the best size of a probe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.cells import Cell, Rows
from benchmarks.quality.ablations import ABLATIONS, TABLE_4, Ablation
from benchmarks.quality.costs import calls, steps_of
from benchmarks.quality.measure import GUIDED, Yardstick, decoded, figures, open_system, pipeline_of
from benchmarks.quality.settings import PROBE, Settings, of_entry
from benchmarks.quality.systems import SIZES, SYSTEMS, Parts, System, configs
from benchmarks.trainings import Trained, Trainings
from cmd_lightning.errors import InputError

UNKNOWN = 1_000_000
"""Steps of a stage that ends after its CPU seconds."""


@dataclass(frozen=True)
class Lab:
    """Trains and measures cells.

    Attributes:
        settings: What is measured.
        root: The folder of all trainings.
        trainings: Trains them.
        yardstick: Measures them.
        systems: The systems by entry.
        ablations: The rows of table 4 by name.
    """

    settings: Settings
    root: Path
    trainings: Trainings
    yardstick: Yardstick
    systems: Mapping[str, System] = field(default_factory=lambda: SYSTEMS)
    ablations: Mapping[str, Ablation] = field(default_factory=lambda: ABLATIONS)

    def parts(self, cell: Cell, rows: Rows) -> Parts:
        """The stages of a cell; those of a system as its probe found best."""
        if cell["entry"] == TABLE_4:
            return self.ablations[cell["row"]].parts
        return self.systems[cell["entry"]].sizes[cell.get("size") or best_size(rows, cell["entry"])]

    def configs(self, cell: Cell, rows: Rows) -> dict[str, dict[str, Any]]:
        """The configs of the stages of a cell."""
        parts, limits = self.parts(cell, rows), None
        batch = self.settings.batch
        if cell["entry"] == TABLE_4:
            steps = {part.stage: self.settings.ablation[part.stage] // (batch or part.batch) for part in parts}
        else:
            probing = cell["budget"] == PROBE
            budget = self.settings.probe if probing else self.settings.budgets[cell["budget"]]
            if probing and budget.kind == "seconds":
                limits = {part.stage: part.share * budget.amount for part in parts}
                steps = dict.fromkeys(limits, UNKNOWN)
            else:
                steps = steps_of(parts, budget, None if probing else rates(rows, cell["entry"]), batch)
        return configs(parts, steps, cell["seed"], self.root, batch, limits)

    def train(self, cell: Cell, rows: Rows) -> dict[str, Trained]:
        """The trained stages of a cell, by name; raises as `Trainings.finished` does."""
        return {stage: self.trainings.finished(config) for stage, config in self.configs(cell, rows).items()}

    def measure(self, cell: Cell, rows: Rows) -> Rows:
        """The rows of a cell, one for each number of sampling steps."""
        trained, parts, settings = self.train(cell, rows), self.parts(cell, rows), self.settings
        made = calls(parts)
        sizes = {part.stage: settings.batch or part.batch for part in parts}
        training = {
            stage: {
                "steps": one.steps,
                "samples": one.steps * sizes[stage],
                "seconds": round(one.seconds, 2),
                "macs": made.training(stage, one.steps * sizes[stage]),
            }
            for stage, one in trained.items()
        }
        about: dict[str, Any] = {"parameters": made.parameters, "training": training}
        checkpoints = {stage: one.checkpoint for stage, one in trained.items()}
        if cell["entry"] == TABLE_4:
            return [about | self.of_table_4(cell, checkpoints)]
        about["size"] = cell.get("size") or best_size(rows, cell["entry"])
        model = open_system(checkpoints)
        found = []
        for steps in (settings.main_steps,) if cell["budget"] == PROBE else settings.steps:
            row = about | figures(model, self.yardstick, steps, list(trained))
            row["sampling macs"] = made.sampling(steps, GUIDED)
            if steps == settings.main_steps and "content" in trained:
                row |= self.by_stage(checkpoints)
            found.append(row)
        return found

    def by_stage(self, checkpoints: Mapping[str, Path]) -> dict[str, Any]:
        """Distances of mixed clips after the autoencoder, and with generated motion on their true content frames."""
        pipeline, clips = pipeline_of(checkpoints), self.yardstick.clips("test", "mixed")
        ways = {"reconstruction": None, "motion prediction": self.settings.main_steps}
        return {
            name: self.yardstick.distances(decoded(pipeline, clips, steps), "mixed") for name, steps in ways.items()
        }

    def of_table_4(self, cell: Cell, checkpoints: Mapping[str, Path]) -> dict[str, Any]:
        """The distance that table 4 is about, of mixed clips."""
        of = self.ablations[cell["row"]].of
        pipeline = pipeline_of(checkpoints)
        clips = self.yardstick.clips("test", "mixed", pipeline.config.video_shape[1])
        steps = None if of == "reconstruction" else self.settings.main_steps
        return {"of": of, "mixed": self.yardstick.distances(decoded(pipeline, clips, steps), "mixed")}


def probe_cells(entry: str) -> list[Cell]:
    """The cells of the three sizes of a system."""
    return [{"entry": entry, "budget": PROBE, "size": size, "seed": 0} for size in SIZES]


def best_size(rows: Rows, entry: str) -> str:
    """The size whose mixed videos came closest to real clips in the probe.

    Raises:
        InputError: The probe has not been measured.
    """
    probed = of_entry(rows, entry, budget=PROBE)
    if len(probed) < len(SIZES):
        raise InputError(f"--only {entry}: its probe is not measured yet; run it without --table first")
    return min(probed, key=lambda row: row["mixed"]["shapes"]["frechet"])["size"]


def rates(rows: Rows, entry: str) -> dict[str, float]:
    """CPU seconds per step of each stage of the best size, as measured in the probe."""
    [row] = of_entry(rows, entry, budget=PROBE, size=best_size(rows, entry))
    return {stage: spent["seconds"] / spent["steps"] for stage, spent in row["training"].items()}


def main_cells(entry: str, budget: str, seeds: Sequence[int]) -> list[Cell]:
    """The cells of a system in its best size."""
    return [{"entry": entry, "budget": budget, "seed": seed} for seed in seeds]


def table_4_cells(names: Sequence[str], seeds: Sequence[int]) -> list[Cell]:
    """The cells of table 4; seeds of a row next to each other."""
    return [{"entry": TABLE_4, "row": name, "seed": seed} for name in names for seed in seeds]
