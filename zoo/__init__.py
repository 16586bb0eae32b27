"""The model zoo: a file for each network that plugs into a component, nothing to register; and models that ship."""

import json
import os
from pathlib import Path

from cmd_lightning.errors import InputError, nearest
from cmd_lightning.zoo.card import Card, Kind
from cmd_lightning.zoo.discovery import FOLDERS, Entry, modules, networks

__all__ = ["Card", "Entry", "entries", "entry", "import_all", "model_folder", "models"]

WEIGHTS = Path(__file__).parent / "weights"
"""What ships: a folder for each model that generates, a file for each network that measures."""


def import_all() -> None:
    """Imports every zoo entry, so that configs may name its class without the module."""
    for kind in FOLDERS:
        list(modules(kind))


def models() -> list[str]:
    """The names of the models that ship."""
    return sorted(index.parent.name for index in WEIGHTS.glob("*/model_index.json"))


def entries(kind: Kind | None = None) -> list[Entry]:
    """The entries of the zoo, or of one kind, by kind and name: models that ship, and every network in its folders."""
    found = [Entry(name, "model") for name in models()] if kind in (None, "model") else []
    return found + [entry for own in FOLDERS if kind in (None, own) for entry in networks(own)]


def entry(name: str) -> Entry:
    """The entry of a name, or of a class by its full name.

    Raises:
        InputError: No such entry; the message has the nearest name.
    """
    found = {entry.name: entry for entry in entries()}
    full = {f"{entry.module}.{entry.name}": entry for entry in found.values()}
    if name in found or name in full:
        return found.get(name) or full[name]
    module, _, own = name.rpartition(".")
    other = f"for your own class, add `import {module}`" if module else None
    raise InputError(f"{name}: the zoo has no such entry; {nearest(own, found, other)}")


def model_folder(model: str | os.PathLike[str]) -> Path:
    """The folder of a model.

    Args:
        model: A folder, or else the name of a model that ships.

    Raises:
        InputError: It is neither, or the folder holds no CMD pipeline.
    """
    folder = Path(model)
    index = folder / "model_index.json"
    # A folder of that name that is no model may be one of videos: `generate NAME --out NAME`.
    if folder.is_dir() and (index.is_file() or str(model) not in models()):
        if not index.is_file():
            raise InputError(f"model {folder}: no model_index.json in this folder; make a model folder with `export`")
        try:
            name = json.loads(index.read_text(encoding="utf-8")).get("_class_name")
        except (ValueError, AttributeError) as error:
            raise InputError(f"model {folder}: its model_index.json is damaged; export it again") from error
        if name != "CMDPipeline":
            raise InputError(f"model {folder}: this is a {name}, not a CMDPipeline; make a model folder with `export`")
        return folder
    if str(model) in models():
        return WEIGHTS / model
    if folder.is_file():
        raise InputError(
            f"model {folder}: this is a file; make a model folder from the three checkpoints with `export`"
        )
    raise InputError(
        f"model {model}: there is no such folder, and the zoo has no model of that name; give a folder that "
        f"`cmd-lightning export` wrote, or a name of the zoo: {', '.join(models()) or 'none ships with this version'}"
    )
