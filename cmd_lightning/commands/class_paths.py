"""Classes that a config may use, by their paths or without a module."""

from __future__ import annotations

import pydoc
from typing import Any

import jsonargparse
from diffusers import ConfigMixin
from lightning import LightningDataModule, LightningModule, Trainer
from lightning.fabric.plugins import CheckpointIO, ClusterEnvironment
from lightning.pytorch.accelerators import Accelerator
from lightning.pytorch.callbacks import Callback, LambdaCallback
from lightning.pytorch.loggers import Logger
from lightning.pytorch.plugins import LayerSync, Precision
from lightning.pytorch.profilers import Profiler
from lightning.pytorch.strategies import Strategy
from torch import nn, optim

from cmd_lightning import callbacks, components, conditioning, diffusion, latent_space, pretrained_text
from cmd_lightning.components import schedules
from cmd_lightning.conditioning import ConditionEncoder
from cmd_lightning.data import latents, webvid
from cmd_lightning.diffusion import Objective
from cmd_lightning.errors import InputError
from cmd_lightning.networks.network import Network
from cmd_lightning.shapes import datamodule

KINDS = (
    *(LightningModule, LightningDataModule, Callback, Logger, Profiler, Accelerator, Strategy, CheckpointIO),
    *(ClusterEnvironment, LayerSync, Precision, nn.Module, optim.Optimizer, optim.lr_scheduler.LRScheduler),
    *(ConditionEncoder, Objective, ConfigMixin),
)
"""A config may create objects of these classes, their subclasses, and the classes of this project."""
CALLERS = (LambdaCallback, optim.lr_scheduler.LambdaLR, optim.lr_scheduler.MultiplicativeLR)
"""Exceptions, except for their subclasses: their arguments are functions, from any module."""

# Imported for the class names that a config may use without a module.
NAMED = (
    *(callbacks, components, conditioning, pretrained_text, latent_space, diffusion, schedules),
    *(webvid, latents, datamodule, optim),
)


def check_class_paths(config: Any, in_stages: bool = False) -> None:
    """Checks each `class_path` of a parsed config before any object is created.

    For a factory (network, optimizer, schedule), jsonargparse would call any importable function, and only then notice
    that it is not a factory. For an argument of any type, it would create an object of any class, such as one that
    starts a process. Stages of the data may be any class with `__call__`.
    """
    if isinstance(config, list | tuple):
        for item in config:
            check_class_paths(item, in_stages)
    elif isinstance(config, dict | jsonargparse.Namespace):
        for key, value in vars(config).items() if isinstance(config, jsonargparse.Namespace) else config.items():
            check_class_paths(value, key == "stages")
            if key == "class_path" and isinstance(value, str):
                found = pydoc.locate(value)
                if not isinstance(found, type):
                    raise InputError(f"class_path {value}: this is not a class; give a class")
                is_stage = in_stages and any("__call__" in vars(base) for base in found.__mro__)
                if not (issubclass(found, KINDS) or value.startswith("cmd_lightning.") or is_stage):
                    raise InputError(f"class_path {value}: classes of this kind are not allowed in a config")
                if found in CALLERS:
                    raise InputError(f"class_path {value}: it calls any function of a config; write your own class")


def known_classes() -> list[type]:
    """The classes that a config may name without a module, and the Trainer."""
    found: list[type] = [Trainer]
    for module in NAMED:
        found += [value for value in vars(module).values() if isinstance(value, type)]
    pending: list[type] = [Network]
    while pending:
        subclasses: list[type] = pending.pop().__subclasses__()
        found += subclasses
        pending += subclasses
    return found
