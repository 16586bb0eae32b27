"""Writes the drawings of the site: `python docs/drawings`. frames.py makes the images that are in them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from canvas import Canvas
from latents import latents
from method import method
from stages import stages

DRAWINGS: Mapping[str, Callable[[], Canvas]] = {"method": method, "stages": stages, "latents": latents}

if __name__ == "__main__":
    for name, draw in DRAWINGS.items():
        Path(__file__).with_name(f"{name}.svg").write_text(draw().svg(), encoding="utf-8")
