"""The figures of a table: reported by the paper, measured with its protocol, and what is missing to measure them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from benchmarks.efficiency.counts import count_rows
from benchmarks.efficiency.rows import RESOLUTIONS, fits, in_rows, wanted
from benchmarks.efficiency.scales import PAPER
from benchmarks.reported import Figure, figures
from benchmarks.reproduce.needs import NEEDS
from cmd_lightning.errors import InputError

COUNTED = ("CMD", "LVDM", "ModelScope")
STEPS = {"autoencoder": "autoencoder, measured", "content": "content", "motion": "motion"}
"""Networks of `benchmarks.training_steps`, by the component of table 8."""


@dataclass(frozen=True)
class Measured:
    """A figure that was measured.

    Attributes:
        value: In the unit of the figure.
        clips: Generated and real clips; "" for what is no distance.
        where: The device; "" for counts.
    """

    value: float
    clips: str = ""
    where: str = ""


@dataclass(frozen=True)
class Row:
    """A way to measure figures; rows.yaml says what each field means."""

    table: str
    figures: Mapping[str, Any]
    protocol: str
    read: str
    clips: int | None = None
    real: int | None = None
    needs: Sequence[str] = ()
    command: str = ""
    result: str = ""
    record: Mapping[str, Any] = field(default_factory=dict)
    tolerance: float | None = None

    def covers(self, figure: Figure) -> bool:
        """Whether it measures a figure of the paper."""
        known = {"system": figure.system, "quantity": figure.quantity, **figure.at}
        return figure.table == self.table and all(
            known.get(name) in (value if isinstance(value, list) else [value]) for name, value in self.figures.items()
        )

    def missing(self) -> list[str]:
        """The needs that are not here, by name."""
        return [name for name in self.needs if not NEEDS[name].found()]

    def measured(self, figure: Figure) -> Measured | None:
        """The figure as measured here; None if nothing has measured it in this way."""
        return READERS[self.read](self, figure)

    def run(self) -> None:
        """Runs the command.

        Raises:
            InputError: It fails.
        """
        print("$", self.command, flush=True)
        # The command line of this Python, also where its folder is not on the path.
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        code = subprocess.run(["bash", "-c", self.command], env=os.environ | {"PATH": path}).returncode
        if code:
            raise InputError(f"table {self.table}: `{self.command}` ended with code {code}; see its messages")


@cache
def rows() -> tuple[Row, ...]:
    """All rows of rows.yaml."""
    text = Path(__file__).with_name("rows.yaml").read_text(encoding="utf-8")
    return tuple(Row(**record) for record in yaml.safe_load(text))


def row_of(figure: Figure) -> Row | None:
    """The row that measures a figure; None for figures that the paper quotes from others, or that no benchmark has."""
    return next((row for row in rows() if row.covers(figure)), None)


def of_records(row: Row, figure: Figure) -> Measured | None:
    """From the records of `test` or `evaluate`; those of another number of clips are not the paper's figure."""
    found = read(row.result)
    for record in found if isinstance(found, list) else []:
        if all(record.get(key) == value for key, value in ({"metric": figure.quantity} | dict(row.record)).items()):
            clips = record["clips"]
            if clips["fake"] == (row.real or row.clips):
                told = ", ".join(f"{number:,} {side}" for side, number in clips.items())
                return Measured(record["value"], told, record.get("hardware", ""))
    return None


def of_counts(row: Row, figure: Figure) -> Measured | None:
    """Counted now."""
    found = [one for one in counts(RESOLUTIONS.get(row.table, RESOLUTIONS["9"])) if fits(one, wanted(figure))]
    return Measured(found[0][figure.quantity] * figure.value / in_rows(figure)) if found else None


@cache
def counts(resolution: str) -> list[dict[str, Any]]:
    """Counts of the systems of the paper's efficiency tables at a resolution."""
    return count_rows({name: PAPER[name] for name in COUNTED}, [resolution])


def of_videos(row: Row, figure: Figure) -> Measured | None:
    """The least of the rows of `benchmarks.efficiency` that are of the same."""
    found = [one for one in kept(row) if fits(one, wanted(figure)) and one[figure.quantity] is not None]
    best = min(found, key=lambda one: one[figure.quantity], default=None)
    return Measured(best[figure.quantity], where=best["device"]) if best else None


def of_steps(row: Row, figure: Figure) -> Measured | None:
    """From `benchmarks.training_steps`, eager and without checkpointing."""
    at = {"network": STEPS[figure.at["component"]], "checkpointing": False, "compiled": False}
    found = [one[figure.quantity] for one in kept(row) if fits(one, at) and one[figure.quantity] is not None]
    return Measured(found[0], where=read(row.result)["hardware"]) if found else None


def kept(row: Row) -> list[dict[str, Any]]:
    """The rows of a file of results; none where there is no file."""
    found = read(row.result)
    return found["rows"] if isinstance(found, dict) else []


def read(path: str) -> Any:
    """What a JSON file holds; None without a file."""
    return json.loads(Path(path).read_text(encoding="utf-8")) if Path(path).is_file() else None


READERS: Mapping[str, Callable[[Row, Figure], Measured | None]] = {
    "records": of_records,
    "counts": of_counts,
    "videos": of_videos,
    "steps": of_steps,
}


def figures_of(table: str) -> list[Figure]:
    """All figures of a table, its parts too: "4" has 4a, 4b and 4c."""
    return [figure for figure in figures() if figure.table.rstrip("abc") == table]
