"""From a class name in a file to the class; importing a module runs it, so only trusted ones are imported."""

from __future__ import annotations

import importlib
import sys
from typing import Any

from diffusers import ConfigMixin
from torch import nn

from cmd_lightning.errors import InputError

TRUSTED = ("cmd_lightning", "diffusers", "transformers")


def class_path(part: object) -> str:
    """The dotted name under which `load_class` finds the class of `part`."""
    return f"{type(part).__module__}.{type(part).__qualname__}"


def load_class(path: str) -> type[Any]:
    """The class with the dotted name `path`.

    A class of this project, of diffusers or of transformers is imported; any other must have been imported by the
    caller already, since a checkpoint or a model folder may not choose which code runs.
    """
    module_name, _, name = path.rpartition(".")
    if module_name.partition(".")[0] in TRUSTED:
        try:
            importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            raise InputError(
                f"{path}: there is no module {error.name}; was the file made by a newer version?"
            ) from error
    if module_name not in sys.modules:
        raise InputError(
            f"{path}: this class is not part of cmd_lightning and is not imported by itself; "
            f"if you trust it, `import {module_name}` first"
        )
    found = getattr(sys.modules[module_name], name, None)
    if not (isinstance(found, type) and issubclass(found, nn.Module | ConfigMixin)):
        raise InputError(f"{path}: {module_name} has no network or scheduler {name}; was the file made elsewhere?")
    return found


def describe(part: Any) -> dict[str, Any]:
    """A network or scheduler with a diffusers config as plain data, for `build`."""
    config = {key: value for key, value in part.config.items() if not key.startswith("_")}
    return {"class_path": class_path(part), "init_args": plain(config)}


def build(description: dict[str, Any]) -> Any:
    """What `describe` described, with fresh weights."""
    return load_class(description["class_path"]).from_config(dict(description["init_args"]))


def plain(value: Any) -> Any:
    """`value` as numbers, strings, lists and dicts; a part within it as its description."""
    if isinstance(value, ConfigMixin):
        return describe(value)
    if hasattr(value, "to_dict"):
        value = value.to_dict()
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value
