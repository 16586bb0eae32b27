"""Walk over a folder of a user's files, and find the clips among them."""

import os
from collections.abc import Iterator
from pathlib import Path

from cmd_lightning.animation import is_animation
from cmd_lightning.video_io import VIDEO_SUFFIXES


def walk(folder: Path) -> Iterator[tuple[Path, list[str]]]:
    """Walk over a folder and those in it, following links, in the order of their names.

    Yields:
        Each folder with the names of its files; hidden ones are left out, and what links lead to again.
    """
    seen: set[str] = set()
    for place, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield Path(place), sorted(name for name in names if not name.startswith("."))


def files_below(folder: Path) -> Iterator[Path]:
    """The files of a folder and those in it, as `walk` finds them."""
    return (place / name for place, names in walk(folder) for name in names)


def clip_suffix(path: Path) -> str:
    """The suffix of a clip, as "mp4"; "" for other files. PNG and WebP are clips if animated: "apng" and "webp"."""
    suffix = path.suffix.lower().removeprefix(".")
    if suffix in ("png", "webp"):
        return suffix.replace("png", "apng") if path.is_file() and is_animation(path) else ""
    return suffix if suffix in VIDEO_SUFFIXES else ""
