"""Configs that a command writes: included ones with changes."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

from cmd_lightning.atomic_files import replaced


def write_config(folder: Path, base: str, name: str, comments: list[str], changes: dict[str, Any]) -> Path:
    """Writes FOLDER/NAME.yaml: configs/BASE/NAME.yaml with FOLDER in place of outputs/BASE, and with `changes`."""
    import yaml

    text = files("cmd_lightning").joinpath("configs", base, f"{name}.yaml").read_text()
    here = json.dumps(folder.as_posix())[1:-1]
    config = merged(json.loads(json.dumps(yaml.safe_load(text)).replace(f"outputs/{base}", here)), changes)
    path = folder / f"{name}.yaml"
    head = "".join(f"# {comment}\n" for comment in comments)
    with replaced(path) as draft:  # `train` keeps a config that exists
        draft.write_text(head + yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    return path


def merged(config: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """`config` updated with `changes`, mapping by mapping; another class replaces the old one and its arguments."""
    for key, value in changes.items():
        old = config.get(key)
        if isinstance(value, dict) and isinstance(old, dict):
            own = old.get("class_path")
            value = merged(old, value) if value.get("class_path", own) == own else value
        config[key] = value
    return config
