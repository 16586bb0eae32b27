"""An SVG that is written part by part: boxes, text, arrows and tiles of frames.png, readable in light and dark mode."""

from __future__ import annotations

import base64
from html import escape
from pathlib import Path

TILE = 32
SHEET = Path(__file__).with_name("frames.png")

STYLE = """
svg { --paper: #ffffff; --ink: #1d2230; --soft: #565e72; --line: #7a8297; --box: #f2f4f8; --edge: #b4bbca;
      --content: #e2ecff; --content-edge: #2f66d0; --motion: #ffeeda; --motion-edge: #c26a10; }
@media (prefers-color-scheme: dark) {
  svg { --paper: #1e2129; --ink: #eceef4; --soft: #b3bacb; --line: #97a0b5; --box: #2b303c; --edge: #596277;
        --content: #22365c; --content-edge: #7aa5ff; --motion: #4a3117; --motion-edge: #f0a24b; } }
text { font-family: system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; fill: var(--ink); }
.soft { fill: var(--soft); }
.code { font-family: ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace; }
.box { fill: var(--box); stroke: var(--edge); stroke-width: 1.5; }
.plain { fill: var(--paper); stroke: var(--line); stroke-width: 1.5; }
.content { fill: var(--content); stroke: var(--content-edge); stroke-width: 1.5; }
.motion { fill: var(--motion); stroke: var(--motion-edge); stroke-width: 1.5; }
.group { fill: none; stroke: var(--edge); stroke-dasharray: 4 4; }
.arrow { fill: none; stroke: var(--line); stroke-width: 1.5; marker-end: url(#head); }
image { image-rendering: pixelated; }
"""


class Canvas:
    """A drawing of a width and height in pixels; `title` is what screen readers say."""

    def __init__(self, width: int, height: int, title: str) -> None:
        self.width, self.height, self.title = width, height, title
        self.parts: list[str] = []
        self.tiles = False

    def text(self, x: float, y: float, words: str, *, size: int = 14, anchor: str = "middle", kind: str = "") -> None:
        """A line of text, whose baseline is at `y`."""
        weight = ' font-weight="600"' if "strong" in kind else ""
        attributes = f'x="{x:g}" y="{y:g}" font-size="{size}" text-anchor="{anchor}" class="{kind}"{weight}'
        self.parts.append(f"<text {attributes}>{escape(words)}</text>")

    def box(self, x: float, y: float, width: float, height: float, *lines: str, kind: str = "box") -> None:
        """A box with lines of text in its middle; a line in backquotes is code."""
        size = f'x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}"'
        self.parts.append(f'<rect {size} rx="7" class="{kind}"/>')
        first = y + height / 2 - 9 * (len(lines) - 1) + 5
        for number, line in enumerate(lines):
            style = {"size": 13, "kind": "code"} if line.startswith("`") else {"kind": "soft"} if number else {}
            self.text(x + width / 2, first + 18 * number, line.strip("`"), **style)

    def arrow(self, *points: tuple[float, float]) -> None:
        """An arrow along points."""
        path = " L".join(f"{x:g} {y:g}" for x, y in points)
        self.parts.append(f'<path d="M{path}" class="arrow"/>')

    def drop(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        """An arrow downwards that turns to its end only in the last gap between rows."""
        (x, y), (u, v) = start, end
        turn, bend = max(y, v - 27), 18
        path = f"M{x:g} {y:g} V{turn:g} C{x:g} {turn + bend:g} {u:g} {v - bend:g} {u:g} {v:g}"
        self.parts.append(f'<path d="{path}" class="arrow"/>')

    def tile(self, column: int, row: int, x: float, y: float, side: float, *, wide: int = 1, kind: str = "box") -> None:
        """A tile of frames.png, or `wide` tiles side by side as one image, with a frame around it."""
        self.tiles = True
        frame = f'x="{x:g}" y="{y:g}" width="{side * wide:g}" height="{side:g}"'
        view = f"{column * TILE} {row * TILE} {TILE * wide} {TILE}"
        self.parts.append(f'<svg {frame} viewBox="{view}"><use href="#sheet"/></svg>')
        self.parts.append(f'<rect {frame} class="{kind}" style="fill: none"/>')

    def svg(self) -> str:
        """The file."""
        size = f'viewBox="0 0 {self.width} {self.height}" width="{self.width}" height="{self.height}"'
        head = '<marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        head += '<path d="M0 0 L8 4 L0 8 z" style="fill: var(--line)"/></marker>'
        if self.tiles:
            data = base64.b64encode(SHEET.read_bytes()).decode()
            head += f'<image id="sheet" width="{5 * TILE}" height="{5 * TILE}" href="data:image/png;base64,{data}"/>'
        lines = [
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">',
            f"<title>{escape(self.title)}</title>",
            f"<style>{STYLE}</style>",
            f"<defs>{head}</defs>",
            f'<rect width="{self.width}" height="{self.height}" rx="10" style="fill: var(--paper)"/>',
            *self.parts,
            "</svg>",
        ]
        return "\n".join(lines) + "\n"
