"""One HTML page about a run: text, scores next to their protocol, moving images, loss curves.

The page is a single file without scripts and links, so it can be mailed, archived and opened anywhere. Templates in
`templates/` extend `report.html`, and show tables, panels and plots with the macros of `blocks.html`.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from cmd_lightning.atomic_files import replaced

Points = list[tuple[float, float]]
Ticks = list[tuple[float, str]]

ENVIRONMENT = Environment(
    loader=PackageLoader("cmd_lightning"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
DRAWN_POINTS = 800  # more than a plot has pixels across
MEDIA = {b"GIF8": "image/gif", b"\x89PNG": "image/png"}


def write_report(path: str | Path, template: str | Template, **values: Any) -> Path:
    """Writes a page of a template with its `values`, among them the `title`; never leaves half a page."""
    page = ENVIRONMENT.get_or_select_template(template).render(**values)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replaced(path) as temporary:
        temporary.write_text(page + "\n", encoding="utf-8")
    return path


@dataclass(frozen=True)
class Panel:
    """A GIF or PNG with a caption; `alt` is its description for screen readers, by default the caption."""

    image: bytes
    caption: str
    alt: str = ""

    @property
    def pixels(self) -> int:
        """Width of the image itself."""
        if self.media == "image/gif":
            return int.from_bytes(self.image[6:8], "little")
        return int.from_bytes(self.image[16:20], "big")

    @property
    def source(self) -> str:
        """The image as a data URI."""
        return f"data:{self.media};base64,{base64.b64encode(self.image).decode()}"

    @property
    def media(self) -> str:
        """The image's media type."""
        if self.image[:4] not in MEDIA:
            raise ValueError(f"panel {self.caption!r} is neither GIF nor PNG")
        return MEDIA[self.image[:4]]


@dataclass(frozen=True)
class Series:
    """A curve: a line, or with `dots=True` a dot for each value, for the few values of validations."""

    name: str
    steps: Sequence[float]
    values: Sequence[float]
    dots: bool = False


@dataclass(frozen=True)
class Plot:
    """Curves over training steps."""

    title: str
    series: Sequence[Series]
    log: bool = False

    def drawing(self) -> tuple[Ticks, Ticks, list[Points]] | None:
        """The labels of both axes and the points of each curve, in pixels; None without a finite value."""
        curves = [
            sorted(
                (float(x), float(y))
                for x, y in zip(series.steps, series.values, strict=True)
                if math.isfinite(x) and math.isfinite(y) and (y > 0 or not self.log)
            )
            for series in self.series
        ]
        if not any(curves):
            return None
        x_axis = _Axis([x for curve in curves for x, _ in curve], start=56, end=704)
        y_axis = _Axis([y for curve in curves for _, y in curve], start=236, end=12, log=self.log)
        return (
            x_axis.ticks(),
            y_axis.ticks(),
            [[(x_axis(x), y_axis(y)) for x, y in _thinned(curve)] for curve in curves],
        )


class _Axis:
    """Maps values to pixels between two ends, and chooses round values for the labels."""

    def __init__(self, values: Sequence[float], start: float, end: float, log: bool = False) -> None:
        self.log, self.start, self.end = log, start, end
        self.low, self.high = self._scaled(min(values)), self._scaled(max(values))
        if self.low == self.high:  # a single value is put in the middle
            room = 0.5 if log else abs(self.low) / 2 or 0.5
            self.low, self.high = self.low - room, self.high + room

    def __call__(self, value: float) -> float:
        part = (self._scaled(value) - self.low) / (self.high - self.low)
        return self.start + part * (self.end - self.start)

    def _scaled(self, value: float) -> float:
        return math.log10(value) if self.log else value

    def ticks(self) -> Ticks:
        return [(self(value), _number(value)) for value in self._round_values()]

    def _round_values(self) -> list[float]:
        """About five round values; on a logarithmic axis powers of ten, with 2 and 5 if those are few."""
        if not self.log:
            return _round_values(self.low, self.high)
        decades = range(math.floor(self.low), math.ceil(self.high) + 1)
        for digits in ([1], [1, 2, 5]):
            ticks = [digit * 10.0**decade for decade in decades for digit in digits]
            ticks = [tick for tick in ticks if self.low - 1e-9 <= math.log10(tick) <= self.high + 1e-9]
            if len(ticks) >= 3:
                return ticks[:: math.ceil(len(ticks) / 8)]
        return _round_values(10**self.low, 10**self.high)


def _round_values(low: float, high: float) -> list[float]:
    rough = (high - low) / 5
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * digit for digit in (1, 2, 5, 10) if unit * digit >= rough * 0.999)
    return [index * step for index in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def _thinned(points: Points) -> Points:
    """Keeps the lowest and the highest of each run of points, so that no spike is lost."""
    size = math.ceil(2 * len(points) / DRAWN_POINTS)
    if size <= 2:
        return points
    runs = [points[start : start + size] for start in range(0, len(points), size)]
    return sorted({extreme(run, key=lambda point: point[1]) for run in runs for extreme in (min, max)})


def _number(value: float) -> str:
    for size, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.4g}{suffix}"
    return f"{value:.4g}"
