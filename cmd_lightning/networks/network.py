"""How a network remembers how it was built, and what it shares with the models of diffusers."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from diffusers.models.modeling_utils import ModelMixin
from diffusers.utils.accelerate_utils import apply_forward_hook
from torch import nn

from cmd_lightning import compat
from cmd_lightning.networks.latents import LatentSpec


class Recorded:
    """Records the arguments of its constructor in diffusers' config; comes before `ConfigMixin` among the bases."""

    config_name: Any = "config.json"

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "__init__" in vars(cls):
            cls.__init__ = _recorded(cls.__init__)  # type: ignore[method-assign]  # wrapped for every subclass


class Network(Recorded, ModelMixin, ConfigMixin):
    """A network that records its constructor's arguments, so that checkpoints and folders describe themselves.

    A subclass writes a plain `__init__`; its arguments (plain data, or a `LatentSpec`) land in `self.config` and
    `save_pretrained` / `from_pretrained` work as for any diffusers model. A network that offers gradient
    checkpointing sets `_supports_gradient_checkpointing` and calls `self.run_block(block, ...)`; `_repeated_blocks`
    names the classes of the blocks that are compiled and sharded one by one.

    Attributes:
        entry_points: Methods besides `forward` that a pipeline calls: where the weights are offloaded, each of them
            loads the weights first.

    Examples:
        >>> import tempfile, torch
        >>> from cmd_lightning.networks import Network
        >>> class Scale(Network):
        ...     def __init__(self, factor: float = 2.0) -> None:
        ...         super().__init__()
        ...         self.weight = torch.nn.Parameter(torch.tensor(factor))
        ...
        ...     def forward(self, x: torch.Tensor) -> torch.Tensor:
        ...         return self.weight * x
        >>> folder = tempfile.TemporaryDirectory()
        >>> Scale(factor=3.0).save_pretrained(folder.name)
        >>> network = Scale.from_pretrained(folder.name)
        >>> network.config.factor, network(torch.ones(1)).item()
        (3.0, 3.0)
    """

    gradient_checkpointing = False
    entry_points: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name in cls.entry_points:
            if name in vars(cls):
                setattr(cls, name, apply_forward_hook(vars(cls)[name]))

    @property
    def execution_device(self) -> torch.device:
        """The device that inputs have to be on: not that of the weights where these are offloaded."""
        return compat.execution_device(self)

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """Load as any diffusers model, with all weights in `torch_dtype` and torch's default dtype unchanged."""
        before = torch.get_default_dtype()
        try:
            opened = super().from_pretrained(*args, **kwargs)
        finally:
            torch.set_default_dtype(before)  # diffusers leaves its own there after an error
        dtype = kwargs.get("torch_dtype", kwargs.get("dtype"))
        if isinstance(dtype, torch.dtype) and "quantization_config" not in kwargs:
            nn.Module.to(opened[0] if isinstance(opened, tuple) else opened, dtype)  # tables that are made in float32
        return opened

    def __call__(self, *inputs: Any, return_dict: bool | None = None, **named: Any) -> Any:
        """The output of `forward`.

        With `return_dict` as networks of diffusers give it: in an object with a `sample` for True, in a tuple for
        False.
        """
        sample = super().__call__(*inputs, **named)
        if return_dict is None:
            return sample
        return Transformer2DModelOutput(sample=sample) if return_dict else (sample,)

    def run_block(self, block: nn.Module, *inputs: Any) -> Any:
        """`block(*inputs)`, with its activations recomputed in the backward pass where that is switched on."""
        if self.gradient_checkpointing and self.training and torch.is_grad_enabled():
            return compat.run_checkpointed(self, block, *inputs)
        return block(*inputs)


def _recorded(init: Callable[..., None]) -> Callable[..., None]:
    """`init`, with its arguments written to the config, and a `latent_spec` given as plain data made one."""
    names = list(inspect.signature(init).parameters)[1:]

    def build(self: Recorded, *args: Any, **kwargs: Any) -> None:
        given = dict(zip(names, args, strict=False)) | kwargs
        if "latent_spec" in given:
            given["latent_spec"] = LatentSpec.of(given["latent_spec"])
        init(self, **given)

    recording = register_to_config(functools.wraps(init)(build))

    @functools.wraps(init)
    def wrapper(self: Recorded, *args: Any, **kwargs: Any) -> None:
        (build if compat.is_recorded(self) else recording)(self, *args, **kwargs)

    return wrapper
