"""One HTML page about a run: text, scores beside their protocol, moving pictures, loss curves.

The page is a single file without scripts and links, so it can be mailed, archived and opened anywhere.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from cmd_lightning.atomic_files import replaced

_COLOURS = 6  # as many as _STYLE has
_DRAWN_POINTS = 800  # more than a plot has pixels across
_MEDIA = {b"GIF8": "image/gif", b"\x89PNG": "image/png"}


@dataclass(frozen=True)
class Text:
    """A paragraph, or with `code=True` a block of commands or settings."""

    text: str
    code: bool = False

    def html(self) -> str:
        """The block as HTML."""
        return f"<pre>{escape(self.text)}</pre>" if self.code else f"<p>{escape(self.text)}</p>"


@dataclass(frozen=True)
class Table:
    """Rows under column names; numbers have four digits, a column of numbers is aligned, None is a dash."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str | float | None]]

    def html(self) -> str:
        """The block as HTML."""
        text = [any(isinstance(cell, str) for cell in column) for column in zip(*self.rows, strict=True)]
        sides = ["left" if is_text else "right" for is_text in text] or ["left"] * len(self.columns)
        names = zip(self.columns, sides, strict=True)
        head = "".join(f"<th scope=col class={side}>{escape(name)}</th>" for name, side in names)
        rows = []
        for row in self.rows:
            cells = zip(row, sides, strict=True)
            rows.append(f"<tr>{''.join(f'<td class={side}>{_cell(cell)}</td>' for cell, side in cells)}</tr>")
        table = f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
        return f"<div class=scroll>{table}</div>"


@dataclass(frozen=True)
class Panel:
    """A GIF or PNG with a caption; `alt` describes it to who cannot see it, by default the caption does."""

    image: bytes
    caption: str
    alt: str = ""

    @property
    def pixels(self) -> int:
        """Width of the image itself."""
        if self._media == "image/gif":
            return int.from_bytes(self.image[6:8], "little")
        return int.from_bytes(self.image[16:20], "big")

    def html(self, width: int) -> str:
        """The panel as HTML, enlarged by a whole factor as far as `width` pixels allow."""
        source = f"data:{self._media};base64,{base64.b64encode(self.image).decode()}"
        shown = self.pixels * max(1, width // self.pixels)
        image = f'<img src="{source}" width={shown} alt="{escape(self.alt or self.caption)}">'
        return f"<figure>{image}<figcaption>{escape(self.caption)}</figcaption></figure>"

    @property
    def _media(self) -> str:
        if self.image[:4] not in _MEDIA:
            raise ValueError(f"panel {self.caption!r} is neither GIF nor PNG")
        return _MEDIA[self.image[:4]]


@dataclass(frozen=True)
class Gallery:
    """Panels in columns at least `width` pixels wide, as many columns as the window has room for."""

    panels: Sequence[Panel]
    width: int = 160

    def html(self) -> str:
        """The block as HTML."""
        cell = max([self.width, *(panel.pixels for panel in self.panels)])
        panels = "".join(panel.html(cell) for panel in self.panels)
        return f'<div class=gallery style="--cell:{cell}px">{panels}</div>'


@dataclass(frozen=True)
class Series:
    """A curve: a line, or with `dots=True` a dot for each value, for the few of a validation."""

    name: str
    steps: Sequence[float]
    values: Sequence[float]
    dots: bool = False

    def points(self) -> list[tuple[float, float]]:
        """The finite points, in order."""
        pairs = sorted(zip(self.steps, self.values, strict=True))
        return [(float(x), float(y)) for x, y in pairs if math.isfinite(x) and math.isfinite(y)]


@dataclass(frozen=True)
class Plot:
    """Curves over training steps."""

    title: str
    series: Sequence[Series]
    log: bool = False

    def html(self) -> str:
        """The block as HTML."""
        colours = [f"c{index % _COLOURS}" for index in range(len(self.series))]
        legend = ""
        for colour, series in zip(colours, self.series, strict=True):
            mark = "dot" if series.dots else "line"
            legend += f"<span class={colour}><i class={mark}></i>{escape(series.name)}</span>"
        caption = f"<figcaption><b>{escape(self.title)}</b><span class=legend>{legend}</span></figcaption>"
        return f"<figure class=plot>{caption}{self._svg(colours)}</figure>"

    def _svg(self, colours: Sequence[str]) -> str:
        points = [[(x, y) for x, y in series.points() if y > 0 or not self.log] for series in self.series]
        if not any(points):
            return "<p>No finite values to draw.</p>"
        x_axis = _Axis([x for curve in points for x, _ in curve], start=56, end=704)
        y_axis = _Axis([y for curve in points for _, y in curve], start=236, end=12, log=self.log)

        parts = []
        for value in y_axis.ticks():
            y = y_axis(value)
            parts.append(f'<path class=rule d="M56 {y:.1f}H704"/>')
            parts.append(f'<text x=48 y="{y + 4:.1f}" text-anchor=end>{_number(value)}</text>')
        for value in x_axis.ticks():
            parts.append(f'<text x="{x_axis(value):.1f}" y=256 text-anchor=middle>{_number(value)}</text>')
        parts.append("<text x=380 y=276 text-anchor=middle>step</text>")
        for colour, series, curve in zip(colours, self.series, points, strict=True):
            places = [(f"{x_axis(x):.1f}", f"{y_axis(y):.1f}") for x, y in _thinned(curve)]
            if series.dots or len(places) == 1:
                drawn = "".join(f'<circle cx="{x}" cy="{y}" r="4"/>' for x, y in places)
            else:
                drawn = f'<polyline points="{" ".join(f"{x},{y}" for x, y in places)}"/>'
            parts.append(f'<g class="series {colour}"><title>{escape(series.name)}</title>{drawn}</g>')
        label = escape(f"{self.title}: {', '.join(series.name for series in self.series)}")
        return f'<svg viewBox="0 0 720 284" role=img aria-label="{label}">{"".join(parts)}</svg>'


@dataclass(frozen=True)
class Section:
    """A heading and the blocks below it."""

    title: str
    blocks: Sequence[Text | Table | Gallery | Plot]

    def html(self) -> str:
        """The section as HTML."""
        blocks = "".join(block.html() for block in self.blocks)
        return f"<section><h2>{escape(self.title)}</h2>{blocks}</section>"


def write_report(path: str | Path, title: str, sections: Iterable[Section]) -> Path:
    """Writes the page; a reader never finds half of one.

    Args:
        path: The HTML file; its folder is made.
        title: Heading of the page.
        sections: What the page shows.

    Returns:
        The path.
    """
    body = f"<h1>{escape(title)}</h1>" + "".join(section.html() for section in sections)
    head = (
        f"<meta charset=utf-8><title>{escape(title)}</title>"
        '<meta name=viewport content="width=device-width, initial-scale=1">'
        f"<meta name=color-scheme content='light dark'><style>{_STYLE}</style>"
    )
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replaced(path) as temporary:
        temporary.write_text(
            f"<!doctype html><html lang=en><head>{head}</head><body><main>{body}</main></body></html>\n",
            encoding="utf-8",
        )
    return path


class _Axis:
    """Places values between two pixels, and chooses the round values to name."""

    def __init__(self, values: Sequence[float], start: float, end: float, log: bool = False) -> None:
        self.log, self.start, self.end = log, start, end
        self.low, self.high = self._scaled(min(values)), self._scaled(max(values))
        if self.low == self.high:  # a single value stands in the middle
            room = 0.5 if log else abs(self.low) / 2 or 0.5
            self.low, self.high = self.low - room, self.high + room

    def __call__(self, value: float) -> float:
        part = (self._scaled(value) - self.low) / (self.high - self.low)
        return self.start + part * (self.end - self.start)

    def _scaled(self, value: float) -> float:
        return math.log10(value) if self.log else value

    def ticks(self) -> list[float]:
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


def _thinned(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Keeps the lowest and the highest of each run of points, so that no spike is lost."""
    size = math.ceil(2 * len(points) / _DRAWN_POINTS)
    if size <= 2:
        return points
    kept: set[tuple[float, float]] = set()
    for start in range(0, len(points), size):
        run = points[start : start + size]
        kept |= {min(run, key=lambda point: point[1]), max(run, key=lambda point: point[1])}
    return sorted(kept)


def _cell(value: str | float | None) -> str:
    if value is None:
        return "&ndash;"
    return escape(value) if isinstance(value, str) else f"{value:.4g}"


def _number(value: float) -> str:
    for size, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.4g}{suffix}"
    return f"{value:.4g}"


_STYLE = """
:root{--paper:#fff;--ink:#1c2024;--soft:#60656c;--rule:#e4e6ea;--tint:#f5f6f8;
--c0:#2563eb;--c1:#d9480f;--c2:#0f8a72;--c3:#9333ea;--c4:#c2255c;--c5:#7a6a00}
@media(prefers-color-scheme:dark){:root{--paper:#15181c;--ink:#e6e8ea;--soft:#9aa1a9;--rule:#2d3238;
--tint:#1d2126;--c0:#7aa7ff;--c1:#ff9a62;--c2:#4fd1b5;--c3:#c59bff;--c4:#ff86a8;--c5:#d8c75a}}
body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.55 system-ui,sans-serif}
main{max-width:57.5rem;margin:0 auto;padding:3rem 1.25rem 5rem}
h1{font-size:2rem;line-height:1.2;letter-spacing:-.02em;margin:0 0 1rem}
h2{font-size:1.25rem;line-height:1.3;margin:3rem 0 .75rem}
h2{padding-top:1.25rem;border-top:1px solid var(--rule)}
p{max-width:42rem;margin:.75rem 0}
pre{background:var(--tint);border-radius:6px;padding:.75rem 1rem;overflow-x:auto}
pre{font:13px/1.5 ui-monospace,monospace}
.scroll{overflow-x:auto;margin:1rem 0}
table{border-collapse:collapse;width:100%;font-size:.9rem}
th,td{vertical-align:top;padding:.45rem 1.25rem .45rem 0;border-bottom:1px solid var(--rule)}
th{color:var(--soft);font-weight:500}
.left{text-align:left}.right{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
figure{margin:0}
figcaption{color:var(--soft);font-size:.85rem;line-height:1.4;margin-top:.35rem}
.gallery{display:grid;gap:1.25rem 1rem;margin:1rem 0;
grid-template-columns:repeat(auto-fill,min(100%,var(--cell)))}
img{display:block;max-width:100%;height:auto;border-radius:4px;image-rendering:pixelated}
.plot{margin:1.5rem 0}
.plot figcaption{display:flex;flex-wrap:wrap;gap:.25rem 1.5rem;margin:0 0 .5rem}
.plot b{color:var(--ink);font-weight:600}
.legend span{color:var(--ink);margin-right:1rem;white-space:nowrap}
.legend i{display:inline-block;margin-right:.4rem;vertical-align:middle;background:var(--c)}
.legend .line{width:1rem;height:2px}.legend .dot{width:8px;height:8px;border-radius:50%}
svg{display:block;width:100%;height:auto;font:12px system-ui,sans-serif}
svg text{fill:var(--soft)}
.rule{stroke:var(--rule)}
.series polyline{fill:none;stroke:var(--c);stroke-width:1.75;stroke-linejoin:round}
.series circle{fill:var(--c);stroke:var(--paper);stroke-width:1.5}
.c0{--c:var(--c0)}.c1{--c:var(--c1)}.c2{--c:var(--c2)}.c3{--c:var(--c3)}.c4{--c:var(--c4)}.c5{--c:var(--c5)}
"""
