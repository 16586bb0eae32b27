"""The motion model to rank: from a name of the zoo, a dotted class path or a config."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from cmd_lightning.errors import InputError, nearest, reason
from cmd_lightning.networks import Condition, LatentSpec, MotionModel
from cmd_lightning.zoo import entry
from cmd_lightning.zoo.discovery import ROOM, motion_configs, network_of, own_networks


@dataclass(frozen=True)
class Candidate:
    """A motion model that can be built.

    Attributes:
        name: The name of its row in the leaderboard and of its card.
        cls: Its class.
        init_args: Arguments of the constructor after `latent_spec` and `condition_dim`.
    """

    name: str
    cls: type[MotionModel]
    init_args: dict[str, Any] = field(default_factory=dict)

    @property
    def class_path(self) -> str:
        """The dotted name of the class."""
        return f"{self.cls.__module__}.{self.cls.__qualname__}"

    @property
    def record(self) -> dict[str, Any]:
        """Class path and arguments, as plain data."""
        return {"class_path": self.class_path, "init_args": dict(self.init_args)}

    def build(self, spec: LatentSpec, condition_dim: int) -> MotionModel:
        """The model for these latents.

        Raises:
            InputError: The class does not take `init_args`, or cannot be built for these latents.
        """
        known = inspect.signature(self.cls.__init__).parameters
        taken = list(known)[3:]
        open_ended = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in known.values())
        for name in self.init_args:
            if name not in taken and not open_ended:
                raise InputError(f"{self.name}: init_args.{name}: there is no such argument; {nearest(name, taken)}")
        constructor: Callable[..., MotionModel] = self.cls
        try:
            return constructor(spec, condition_dim, **self.init_args)
        except InputError:
            raise
        except Exception as error:  # a third-party constructor may raise anything
            raise InputError(
                f"model {self.name}: it cannot be built for motion latents {spec.motion} and content frames "
                f"{spec.content} ({reason(error)}); its constructor takes (latent_spec, condition_dim, **init_args)"
            ) from error

    def check(self, spec: LatentSpec, condition: Condition) -> None:
        """Builds the model and calls it once, with as many samples as the condition has.

        Raises:
            InputError: The call fails, or its output does not have the shape of the motion latent, is NaN or infinite,
                or does not depend on trainable weights.
        """
        count = len(condition.pooled)
        motion, content = torch.randn(count, *spec.motion), torch.randn(count, *spec.content)
        network = self.build(spec, condition.pooled.shape[1])
        try:
            output = network.predict(motion, torch.full((count,), 500), content, condition)
        except Exception as error:  # as above
            raise InputError(
                f"model {self.name}: a call with motion {tuple(motion.shape)} and content {tuple(content.shape)} fails "
                f"({reason(error)}); see MotionModel.forward"
            ) from error
        shape = tuple(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
        if shape != tuple(motion.shape):
            fault = f"is {shape}; return that of the motion, {tuple(motion.shape)}"
        elif not output.isfinite().all():
            fault = "is NaN or infinite before any training; fix its forward"
        elif not output.requires_grad:
            fault = "does not depend on trainable weights; fix its forward"
        else:
            return
        raise InputError(f"model {self.name}: its output {fault}")


def candidate(model: str, config: str | None = None, name: str | None = None) -> Candidate:
    """Finds the motion model to rank.

    Args:
        model: A motion model of the zoo, the dotted path of an importable class, or a config as in configs/motion.
        config: A config with the model's arguments; by default, a model of the zoo uses its config, and any other class
            its defaults.
        name: Name of its row, by default that of the class.

    Raises:
        InputError: There is no such model, it is not a motion model, the config is missing or of another model, or the
            name is invalid or taken by another model of the zoo.
    """
    zoo = {entry.name: entry.module for entry in own_networks("motion")}
    if Path(model).suffix in (".yaml", ".yml"):
        if config:
            raise InputError(f"config {config}: model {model} is a config already; give one of them")
        path, init_args = network_of(Path(model), "model ")
        if not path:
            raise InputError(f"model {model}: it names no class; give it as `config`, and the name of its model")
        cls = class_of(path)
    else:
        cls = class_of(model)
        if not config and zoo.get(cls.__name__) == cls.__module__:
            if (own := motion_configs().get(cls.__name__)) is None:
                raise InputError(f"model {cls.__name__}: configs/motion has no config of it; give one as `config`")
            config = str(ROOM.parent / own)
        named, init_args = network_of(Path(config), "config ") if config else ("", {})
        if named and named.rpartition(".")[2] != cls.__name__:
            raise InputError(f"config {config}: it is of {named}, not of {cls.__name__}; give one of that")
    name = name or cls.__name__
    if zoo.get(name, cls.__module__) != cls.__module__:
        raise InputError(f"name {name}: the zoo has a model of that name; give another")
    if not name.replace("-", "_").replace(" ", "_").isidentifier():
        raise InputError(f"name {name}: give letters, digits, spaces, - and _, as of a folder")
    return Candidate(name, cls, init_args)


def class_of(path: str) -> type[MotionModel]:
    """The motion model class of a name of the zoo or of a dotted path; the working directory is searched too.

    Raises:
        InputError: There is no such class, it cannot be imported, or it is not a motion model.
    """
    module, _, name = path.rpartition(".")
    if not module:
        found = entry(path)
        if found.kind != "motion":
            raise InputError(f"model {path}: this is not a motion model ({found.kind}); see `cmd-lightning zoo list`")
        return found.load()
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        imported = importlib.import_module(module)
        cls = getattr(imported, name, None)
    except Exception as error:  # importing runs third-party code
        raise InputError(f"model {path}: {module} cannot be imported ({reason(error)}); check the path") from error
    if cls is None:
        names = [key for key, value in vars(imported).items() if isinstance(value, type)]
        raise InputError(f"model {path}: {module} has no {name}; {nearest(name, names) if names else 'check the path'}")
    if not (isinstance(cls, type) and issubclass(cls, MotionModel)):
        raise InputError(f"model {path}: it is not a MotionModel; derive it from cmd_lightning.networks.MotionModel")
    return cls
