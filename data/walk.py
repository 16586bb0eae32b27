"""Walk over a folder of a user's files, and tell clips from others."""

import os
from collections.abc import Iterator
from pathlib import Path

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


def suffix_of(path: Path) -> str:
    """The suffix of a file in lower case and without its dot, as "mp4"."""
    return path.suffix.lower().removeprefix(".")


def is_clip(path: Path) -> bool:
    """Whether a file is a clip, by its suffix."""
    return suffix_of(path) in VIDEO_SUFFIXES
