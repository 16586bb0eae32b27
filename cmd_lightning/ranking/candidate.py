"""Which motion model is ranked: from a name of the zoo, a dotted class path or a config to something to build."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from cmd_lightning.errors import InputError, nearest, reason
from cmd_lightning.networks import Condition, LatentSpec, MotionModel
from cmd_lightning.zoo import entries, entry
from cmd_lightning.zoo.discovery import ROOM, motion_configs, network_of


@dataclass(frozen=True)
class Candidate:
    """A motion model that can be built.

    Attributes:
        name: Of its row and its card.
        cls: Its class.
        init_args: Of the constructor, after the latents' shapes and the condition's channels.
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
        """What is ranked, as plain data."""
        return {"class_path": self.class_path, "init_args": dict(self.init_args)}

    def build(self, spec: LatentSpec, condition_dim: int) -> MotionModel:
        """The model for these latents.

        Raises:
            InputError: It does not take its arguments, or not this layout.
        """
        known = inspect.signature(self.cls.__init__).parameters
        taken = list(known)[3:]
        open_ended = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in known.values())
        for name in self.init_args:
            if name not in taken and not open_ended:
                raise InputError(f"{self.name}: init_args.{name}: there is no such argument; {nearest(name, taken)}")
        try:
            return self.cls(spec, condition_dim, **self.init_args)
        except InputError:
            raise
        except Exception as error:  # a third party's constructor raises what it likes
            raise InputError(
                f"MODEL {self.name}: it cannot be built for motion latents {spec.motion} and content frames "
                f"{spec.content} ({reason(error)}); its constructor takes (latent_spec, condition_dim, **init_args)"
            ) from error

    def check(self, spec: LatentSpec, condition: Condition) -> None:
        """Calls a fresh model once, on as many samples as the condition has.

        Raises:
            InputError: It fails, or its output is not of the shape of the motion latent, not finite or not trainable.
        """
        count = len(condition.pooled)
        motion, content = torch.randn(count, *spec.motion), torch.randn(count, *spec.content)
        network = self.build(spec, condition.pooled.shape[1])
        try:
            output = network(motion, torch.full((count,), 500), content, condition)
        except Exception as error:  # as above
            raise InputError(
                f"MODEL {self.name}: a call with motion {tuple(motion.shape)} and content {tuple(content.shape)} fails "
                f"({reason(error)}); see MotionModel.forward"
            ) from error
        shape = tuple(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
        if shape != tuple(motion.shape):
            raise InputError(
                f"MODEL {self.name}: its output is {shape}; give that of the motion, {tuple(motion.shape)}"
            )
        if not output.isfinite().all():
            raise InputError(f"MODEL {self.name}: its output is NaN or infinite before any training; mend its forward")
        if not output.requires_grad:
            raise InputError(f"MODEL {self.name}: its output does not depend on weights that train; mend its forward")


def candidate(model: str, config: str | None = None, name: str | None = None) -> Candidate:
    """The candidate that the command line names.

    Args:
        model: A motion model of the zoo, the dotted path of an importable class, or a config as in configs/motion.
        config: A config with the model's arguments.
        name: Of its row, by default that of the class.

    Raises:
        InputError: There is no such model, it is no motion model, the config is another's, or the name is taken.
    """
    if Path(model).suffix in (".yaml", ".yml"):
        if config:
            raise InputError(f"--config {config}: MODEL {model} is a config already; give one of them")
        path, init_args = in_config("MODEL", model)
        if not path:
            raise InputError(f"MODEL {model}: it names no class; give it by --config, after the name of its model")
        cls = class_of(path)
    else:
        cls = class_of(model)
        if config:
            named, init_args = in_config("--config", config)
            if named and named.rpartition(".")[2] != cls.__name__:
                raise InputError(f"--config {config}: it is of {named}, not of {cls.__name__}; give one of that")
        else:
            init_args = own_arguments(cls)
    name = name or cls.__name__
    taken = {entry.name: entry.module for entry in entries("motion")}
    if taken.get(name, cls.__module__) != cls.__module__:
        raise InputError(f"--name {name}: the zoo has a model of that name; give another")
    if not name.replace("-", "_").replace(" ", "_").isidentifier():
        raise InputError(f"--name {name}: give letters, digits, spaces, - and _, as of a folder")
    return Candidate(name, cls, init_args)


def in_config(option: str, path: str) -> tuple[str, dict[str, Any]]:
    """Class path and arguments of the network in a config of the motion stage; of the config no more is taken.

    Raises:
        InputError: There is no such file, or it names no network.
    """
    try:
        return network_of(Path(path))
    except InputError as error:
        raise InputError(f"{option} {error}") from error


def own_arguments(cls: type[MotionModel]) -> dict[str, Any]:
    """The arguments of a class of the zoo in its config of `configs/motion`; none of a third party's.

    Raises:
        InputError: There is no such config.
    """
    if (cls.__module__, cls.__name__) not in {(one.module, one.name) for one in entries("motion")}:
        return {}
    config = motion_configs().get(cls.__name__)
    if config is None:
        raise InputError(f"MODEL {cls.__name__}: configs/motion has no config of it; give one by --config")
    return network_of(ROOM.parent / config)[1]


def class_of(path: str) -> type[MotionModel]:
    """The motion model that a name of the zoo or a dotted path stands for.

    Raises:
        InputError: There is none.
    """
    if "." in path:
        return third_party(path)
    found = entry(path)
    if found.kind != "motion":
        raise InputError(f"MODEL {path}: it is no motion model ({found.kind}); see `cmd-lightning zoo list`")
    return found.load()


def third_party(path: str) -> type[MotionModel]:
    """The class with a dotted path, importable from the working directory too.

    Raises:
        InputError: It cannot be imported, or is no motion model.
    """
    module, _, name = path.rpartition(".")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found = getattr(importlib.import_module(module), name, None)
    except Exception as error:  # importing runs their code
        raise InputError(f"MODEL {path}: {module} cannot be imported ({reason(error)}); check the path") from error
    if found is None:
        names = [key for key, value in vars(sys.modules[module]).items() if isinstance(value, type)]
        raise InputError(f"MODEL {path}: {module} has no {name}; {nearest(name, names) if names else 'check the path'}")
    if not (isinstance(found, type) and issubclass(found, MotionModel)):
        raise InputError(f"MODEL {path}: it is no MotionModel; derive it from cmd_lightning.networks.MotionModel")
    return found
