"""Fast checks of the command line of `fit`, `validate`, `test` and `predict`, before libraries are imported."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from cmd_lightning.commands.words import pairs
from cmd_lightning.errors import InputError, nearest

STAGES = ("autoencoder", "content", "motion")
NO_TRAINING = {
    "trainer.max_steps": "at least 1, or -1 for no limit",
    "trainer.max_epochs": "at least 1, or -1 for no limit",
    "trainer.limit_train_batches": "a number of batches, or a share of them such as 0.5",
}
"""Options that disable training if they are 0, with valid values."""
NOT_ZERO = {
    "trainer.val_check_interval": "a number of batches, or a share of an epoch such as 0.5",
    "trainer.check_val_every_n_epoch": "at least 1, or null to count batches only",
    "trainer.accumulate_grad_batches": "at least 1",
}
"""Other options that must not be 0, with valid values."""


def check(verb: str, words: Sequence[str]) -> None:
    """Raises an InputError for a missing config, checkpoint or model, and for training without steps."""
    import yaml

    given: dict[str, Any] = {}
    typed: dict[str, Any] = {}  # options that are not from a config
    for name, value in pairs(words):
        if name in ("-c", "--config"):
            if not value or "{" in value or "\n" in value:
                return  # a config as text, or a mistake that jsonargparse reports
            check_config(Path(value))
            try:
                config = yaml.safe_load(Path(value).read_text(encoding="utf-8"))
            except (yaml.YAMLError, UnicodeDecodeError):
                return  # jsonargparse reports the error in it
            given |= flat(config)
        elif name.startswith("--"):
            typed[name[2:].replace(".init_args.", ".")] = value
    if any(word.startswith("--print_config") or word.endswith((".help", "--help-all")) for word in words):
        return
    if not given and not typed:
        raise InputError(f"{verb}: no config; give one, such as -c configs/shapes32/autoencoder.yaml")
    check_numbers(verb, given | typed)
    if "lightning" not in sys.modules:  # else there may be the user's classes, from `--import`
        check_class((given | typed).get("model") or (given | typed).get("model.class_path"))
    check_files(typed)


def check_config(path: Path) -> None:
    """Raises an InputError for a config that is not a file."""
    if path.is_file():
        return
    configs = sorted(file.name for file in (path if path.is_dir() else path.parent).glob("*.yaml"))
    if path.is_dir():
        raise InputError(f"-c {path}: this is a folder; give one of its files: {', '.join(configs) or 'it has none'}")
    hint = nearest(path.name, configs) if configs else "give a file of configs/, or your own"
    raise InputError(f"-c {path}: there is no such file; {hint}")


def check_numbers(verb: str, given: dict[str, Any]) -> None:
    """Raises an InputError for training without steps, and for numbers that make the Trainer fail later."""
    zero = {option for option, value in given.items() if re.fullmatch(r"0+(\.0*)?", str(value))}
    if verb == "fit" and (options := [option for option in NO_TRAINING if option in zero]):
        raise InputError(f"--{options[0]} 0: nothing would be trained; give {NO_TRAINING[options[0]]}")
    if options := [option for option in NOT_ZERO if option in zero]:
        raise InputError(f"--{options[0]} 0: give {NOT_ZERO[options[0]]}")
    clip = str(given.get("trainer.gradient_clip_val"))
    if clip.startswith("-"):
        raise InputError(f"--trainer.gradient_clip_val {clip}: would reverse gradients; give a positive number")


def check_class(name: Any) -> None:
    """Raises an InputError for a component without a module that is not one of this project."""
    source = files("cmd_lightning").joinpath("components", "__init__.py").read_text(encoding="utf-8")
    [listed] = re.findall(r"__all__ = (\[.*?\])", source, flags=re.DOTALL)
    known = ast.literal_eval(listed)
    if isinstance(name, str) and name.isidentifier() and name not in known:
        own = "for your own class, add --import my_package.module"
        raise InputError(f"class_path {name}: there is no such class; {nearest(name, known, own)}")


def check_files(given: dict[str, str]) -> None:
    """Raises an InputError for a missing checkpoint or model."""
    from cmd_lightning.zoo import model_folder, models

    folder = given.get("trainer.default_root_dir")
    if folder and Path(folder).is_file():
        raise InputError(f"--trainer.default_root_dir {folder}: this is a file; give a folder")
    checkpoint = given.get("ckpt_path")
    if checkpoint == "best":
        raise InputError(
            "--ckpt_path best: only the run that wrote a best checkpoint knows its path; "
            "give the file that ModelCheckpoint wrote, or last"
        )
    if checkpoint is not None and checkpoint not in ("last", "hpc", "null") and not Path(checkpoint).exists():
        raise InputError(f"--ckpt_path {checkpoint}: there is no such file; give one that `fit` wrote")
    for stage in STAGES:
        path = given.get(f"model.{stage}")
        if path and path != "null" and not Path(path).exists() and path not in models() and not path.startswith("{"):
            raise InputError(
                f"model.{stage} {path}: there is no such file; give the checkpoint of "
                f"`fit -c configs/.../{stage}.yaml`, a folder that `export` wrote, or a name of the zoo "
                f"({', '.join(models())})"
            )
    if model := given.get("model.model"):
        model_folder(model)


def flat(config: Any, place: str = "") -> dict[str, Any]:
    """The plain values of a config by the options that set them."""
    if not isinstance(config, dict):
        return {place: config}
    found: dict[str, Any] = {}
    for name, value in config.items():
        inner = place if name == "init_args" else f"{place}.{name}" if place else str(name)
        found |= flat(value, inner)
    return found
