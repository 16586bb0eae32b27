"""The rooms of the source and which imports which, drawn for the architecture page: `python docs/rooms.py`.

Imports are read from the source text, including those within functions. `cmd_lightning/zoo` and `cmd_lightning/data`
are symbolic links to the folders at the top.
"""

from __future__ import annotations

import ast
import os
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "architecture.md"
BEGIN, END = "<!-- begin rooms: python docs/rooms.py -->\n", "<!-- end rooms -->"

FILES = {
    "pipeline": (
        *("pipeline", "pipeline_folder", "pipeline_input", "pipeline_latents", "pipeline_memory", "pipeline_output"),
        *("pipeline_prompt", "pipeline_steps", "faster_sampling", "model_card"),
    ),
    "stable_diffusion": ("stable_diffusion", "pretrained_text"),
    "video_io": (
        *("video_io", "video_encoding", "video_file", "video_index", "animation", "gif", "image_io", "viewing"),
        "clip_folder",
    ),
    "commands": ("cli", "report", "__main__"),
    "basics": (
        *("__init__", "__version__", "errors", "provenance", "compat", "atomic_files", "markdown", "threads"),
        *("metric_names", "progress"),
    ),
}
"""Rooms of files at the top of the package; any other file there is a room by itself."""

GROUPS = {
    "tools": ("benchmarks", "commands"),
    "procedural world": ("ranking", "shapes"),
    "the method": ("components", "pipeline", "diffusion", "conditioning", "latent_space", "stable_diffusion"),
    "networks": ("zoo", "networks", "pretrained"),
    "data and scores": ("callbacks", "data", "evaluation", "metrics", "packing", "video_io"),
}
"""What is drawn, in boxes. "basics", which every room may import, is left out."""


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


def diagram() -> str:
    """The rooms as a Mermaid flow chart, without the arrows that follow from others."""
    direct = {pair for pair in arrows() if "basics" not in pair}
    lines = ["```mermaid", "flowchart TD"]
    for number, (title, rooms) in enumerate(GROUPS.items()):
        lines += [f"  subgraph group{number} [{title}]", *(f"    {room}" for room in rooms), "  end"]
    lines += [f"  {a} --> {b}" for a, b in sorted(direct) if not follows(a, b, direct)]
    return "\n".join([*lines, "```", ""])


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


def main() -> None:
    """Write the drawing into the page."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{BEGIN}{diagram()}{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
