"""The rooms of the source and which imports which, drawn as docs/drawings/rooms.svg: `python docs/rooms.py`.

Imports are read from the source text, including those within functions. `cmd_lightning/zoo` and `cmd_lightning/data`
are symbolic links to the folders at the top.
"""

from __future__ import annotations

import ast
import os
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FILE = ROOT / "docs" / "drawings" / "rooms.svg"
sys.path.append(str(FILE.parent))  # for the canvas of the other drawings

from canvas import Canvas  # noqa: E402

FILES = {
    "stable_diffusion": ("stable_diffusion", "pretrained_text"),
    "video_io": (
        *("video_io", "video_encoding", "video_file", "video_index", "animation", "gif", "image_io", "viewing"),
        "clip_folder",
    ),
    "commands": ("cli", "report", "__main__"),
    "basics": (
        *("__init__", "__version__", "errors", "provenance", "compat", "atomic_files", "markdown", "threads"),
        *("metric_names", "progress", "resizing"),
    ),
}
"""Rooms of files at the top of the package; any other file there is a room by itself."""

GROUPS = {
    "the method": (
        "content",
        ("components", "pipeline", "diffusion", "conditioning", "latent_space", "stable_diffusion"),
    ),
    "networks": ("motion", ("zoo", "networks", "pretrained")),
    "data and scores": ("box", ("callbacks", "data", "evaluation", "metrics", "packing", "video_io")),
    "tools and procedural world": ("plain", ("benchmarks", "commands", "ranking", "shapes")),
}
"""What is drawn: the colour and the rooms of each group. "basics", which every room may import, is left out."""

PLACES = {
    **{"benchmarks": 540, "commands": 540, "ranking": 400, "components": 260, "pipeline": 131, "callbacks": 736},
    **{"latent_space": 260, "shapes": 400, "stable_diffusion": 260, "zoo": 66, "diffusion": 196, "conditioning": 330},
    **{"evaluation": 500, "packing": 622, "networks": 196, "metrics": 380, "data": 622, "pretrained": 196},
    "video_io": 560,
}
"""The horizontal centre of each room; its height follows from what it imports."""


def room_of(module: str) -> str | None:
    """The room of a dotted module name; None for another project's."""
    package, _, rest = module.partition(".")
    if package != "cmd_lightning":
        return package if package == "benchmarks" else None
    name = rest.partition(".")[0] or "__init__"
    return next((room for room, files in FILES.items() if name in files), name)


def modules() -> Iterator[tuple[str, Path]]:
    """The dotted name and the file of every module, through symbolic links."""
    for package in ("cmd_lightning", "benchmarks"):
        for folder, _, names in os.walk(ROOT / package, followlinks=True):
            for path in (Path(folder, name) for name in sorted(names) if name.endswith(".py")):
                yield ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"), path


def imports_of(path: Path) -> Iterator[str]:
    """The dotted names of the modules that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            # `from package import module` imports the module; what is no module is harmless here.
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def arrows() -> dict[tuple[str, str], set[str]]:
    """For each pair of rooms of which the first imports the second: the modules of the first that do."""
    found: dict[tuple[str, str], set[str]] = defaultdict(set)
    for module, path in modules():
        own = room_of(module)
        for name in imports_of(path):
            other = room_of(name)
            if own and other and own != other:
                found[own, other].add(module)
    return dict(found)


def drawing() -> Canvas:
    """The rooms, each above all that it imports, without the arrows that follow from others."""
    direct = {pair for pair in arrows() if "basics" not in pair}
    heights: dict[str, int] = {}

    def height(room: str) -> int:
        if room not in heights:
            heights[room] = 1 + max((height(b) for a, b in direct if a == room), default=-1)
        return heights[room]

    top = max(map(height, PLACES))
    canvas = Canvas(800, 62 * (top + 1) + 44, "The rooms of the source; an arrow means that a room imports another")
    x, y = PLACES, {room: 20 + 62 * (top - height(room)) for room in PLACES}
    for a, b in sorted(direct):
        if not follows(a, b, direct):
            canvas.drop((x[a], y[a] + 32), (x[b], y[b] - 3))
    for number, (title, (kind, rooms)) in enumerate(GROUPS.items()):
        for room in rooms:
            canvas.box(x[room] - 59, y[room], 118, 32, room, kind=kind)
        canvas.box(16 + 182 * number, canvas.height - 34, 16, 16, kind=kind)
        canvas.text(38 + 182 * number, canvas.height - 21, title, anchor="start", kind="soft", size=13)
    return canvas


def follows(start: str, end: str, pairs: set[tuple[str, str]]) -> bool:
    """Whether there is a path from `start` to `end` by way of another room."""
    reached, pending = {start}, [b for a, b in pairs if a == start and b != end]
    while pending:
        room = pending.pop()
        if room == end:
            return True
        if room not in reached:
            reached.add(room)
            pending += [b for a, b in pairs if a == room]
    return False


if __name__ == "__main__":
    FILE.write_text(drawing().svg(), encoding="utf-8")
