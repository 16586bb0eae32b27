"""The command to run after a training run, found from its config and the configs next to it."""

from __future__ import annotations

import itertools
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from lightning import LightningModule

from cmd_lightning.cli import PROGRAM, imports
from cmd_lightning.commands.words import options, values_of
from cmd_lightning.components.base import Component
from cmd_lightning.components.checkpoints import is_model
from cmd_lightning.networks.classes import TRUSTED

OTHER = {"content": "motion", "motion": "content"}
KEPT_BY_STAGE = ("--data.batch_size", "--data.num_workers")
"""Options of the data that each stage sets separately."""


def next_commands(model: LightningModule, words: Sequence[str], checkpoint: Path) -> list[str]:
    """The commands to run after `fit` has trained `model`; [] if unknown.

    Args:
        model: The trained model.
        words: The command line after `cmd-lightning`.
        checkpoint: The checkpoint that was written.
    """
    needed = dict.fromkeys([*imports(), *modules_of(model)])
    added = "".join(f" --import {module}" for module in needed)
    return [line + added for line in following(model, words, checkpoint)]


def modules_of(model: LightningModule) -> list[str]:
    """The modules of third-party parts of `model`, which are not imported automatically."""
    modules = [type(part).__module__ for part in model.parts().values()] if isinstance(model, Component) else []
    return [module for module in modules if module.partition(".")[0] not in TRUSTED]


def following(model: LightningModule, words: Sequence[str], checkpoint: Path) -> list[str]:
    """The commands to run next, without modules to import."""
    stage = getattr(model, "stage", None)
    configs = [Path(value) for value in values_of(words, "-c", "--config")]
    if stage == "video":
        given = [word for pair in options(words[1:], ("--ckpt_path",)) for word in pair]
        return [command("predict", *given, "--ckpt_path", "last")]
    if stage == "autoencoder":
        return [fit_command(path, words, checkpoint) for path in later_configs(configs[:1])]
    if stage not in OTHER:
        return []
    autoencoder = autoencoder_of(words, configs)
    if autoencoder is None:
        return []
    if is_model(autoencoder):
        return [command("export", autoencoder, checkpoint, new_folder(checkpoint))]
    sibling = configs[0].with_name(f"{OTHER[stage]}.yaml") if configs else None
    other = checkpoint.parent.with_name(OTHER[stage]) / "last.ckpt"
    if not other.is_file() and sibling is not None and sibling.is_file():
        other = last_of(read(sibling)) or other
        if not other.is_file():
            return [fit_command(sibling, words, Path(autoencoder))]
    return [command("export", autoencoder, *sorted((checkpoint, other)), new_folder(checkpoint))]


def fit_command(config: Path, words: Sequence[str], autoencoder: Path) -> str:
    """The command `fit` of a later stage: with the same data, and the autoencoder if its config has another."""
    parts = [command("fit", "-c", config)]
    parts += [shlex.join(["-c", path]) for path in values_of(words, "-c", "--config")[1:] if "model" not in read(path)]
    arguments = read(config)["model"].get("init_args", {})
    if Path(arguments.get("autoencoder", "")) != autoencoder:
        parts.append(shlex.join(["--model.autoencoder", str(autoencoder)]))
    if "StableDiffusion" in read(config)["model"]["class_path"] and "base" not in arguments:
        [*_, base] = ["BASE", *values_of(words, "--model.base", "--model.latent_space.vae")]
        parts.append(shlex.join(["--model.base", base]))
    parts += [shlex.join(pair) for pair in options(words[1:]) if is_shared(pair[0].partition("=")[0])]
    return " ".join(parts)


def is_shared(option: str) -> bool:
    """Whether an option of one stage holds for the others too."""
    return option.startswith("--data") and option not in KEPT_BY_STAGE


def later_configs(configs: Sequence[Path]) -> Iterator[Path]:
    """The configs next to the first that train a stage on the checkpoint that it names."""
    for config in configs:
        own = last_of(read(config))
        for path in sorted(config.parent.glob("*.yaml")):
            model = read(path).get("model") or {}
            named = model.get("init_args", {}).get("autoencoder")
            if model.get("class_path") != "CMD" and isinstance(named, str) and Path(named) == own:
                yield path


def autoencoder_of(words: Sequence[str], configs: Sequence[Path]) -> str | None:
    """The autoencoder that a stage was trained on, from the options or else the configs."""
    named = [read(path).get("model", {}).get("init_args", {}).get("autoencoder") for path in configs]
    given = [name for name in named if isinstance(name, str)] + values_of(words, "--model.autoencoder")
    return given[-1] if given else None


def last_of(config: dict[str, Any]) -> Path | None:
    """The checkpoint that a run of a config writes."""
    folder = config.get("trainer", {}).get("default_root_dir")
    return Path(folder, "last.ckpt") if folder else None


def new_folder(checkpoint: Path) -> Path:
    """A new folder for the model, next to those of the stages."""
    names = itertools.chain(["model"], (f"model-{number}" for number in itertools.count(2)))
    return next(path for name in names if not (path := checkpoint.parent.parent / name).exists())


def read(path: str | Path) -> dict[str, Any]:
    """A config as plain data."""
    return yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}


def command(*words: object) -> str:
    """A command line of this program."""
    return shlex.join([PROGRAM, *map(str, words)])
