"""import_part: networks and metrics by a dotted name, imported only when they are asked for."""

from __future__ import annotations

import pkgutil
from pathlib import Path
from typing import TypeVar

from cmd_lightning.errors import InputError

ALIASES = {
    "feature": {"shapes": "cmd_lightning.shapes.features.ShapesFeatures.from_pretrained"},
    "clipsim": {"shapes": "cmd_lightning.shapes.sheets.SheetSimilarity.from_pretrained"},
}
"""Short names, by what is asked for."""

Part = TypeVar("Part")


def is_importable(name: str, role: str) -> bool:
    """Whether a name is an alias for this role, or names something in a Python module, as "package.Class"."""
    if name in ALIASES.get(role, {}):
        return True
    return "." in name and all(part.isidentifier() for part in name.split(".")) and not Path(name).exists()


def import_part(name: str, role: str, kind: type[Part]) -> Part:
    """Import "package.Class", or what an alias stands for, and call it without arguments.

    Raises:
        InputError: It cannot be imported, or returns another kind of object.
    """
    name = ALIASES.get(role, {}).get(name, name)
    try:
        part = pkgutil.resolve_name(name)()
    except Exception as error:  # a third-party module may raise anything when it is imported or called
        wanted = f"a class or function that makes a {kind.__name__} without arguments"
        raise InputError(f"{role} {name}: {error}; give {wanted}") from error
    if not isinstance(part, kind):
        raise InputError(f"{role} {name}: it makes a {type(part).__name__}, and must make a {kind.__name__}")
    return part
