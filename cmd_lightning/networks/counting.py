"""How many parameters a network has and how many multiply-adds a call of it takes, without doing any of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode

from cmd_lightning.networks.latents import Condition


@dataclass(frozen=True)
class Count:
    """A network's parameters, without buffers, and the multiply-adds of a call."""

    parameters: int
    products: int  # in linear layers and convolutions
    attention: int  # between tokens

    @property
    def macs(self) -> int:
        """All multiply-adds of a call."""
        return self.products + self.attention


def count(module: nn.Module, *inputs: Any, call: Callable[..., Any] | None = None) -> Count:
    """Counts a call of `module`, which stays as it is, on whatever device; `call` replaces `module(*inputs)`."""
    target = _Call(module, call or (lambda network, *args: network(*args)))
    # Weights that need a gradient: torch then never makes a batched product of a linear layer, which would look like
    # attention.
    weights = {
        name: torch.empty_like(tensor, device="meta", requires_grad=isinstance(tensor, nn.Parameter))
        for name, tensor in [*target.named_parameters(), *target.named_buffers()]
    }
    inputs = _shape_only(inputs)
    counter = FlopCounterMode(display=False)
    with torch.enable_grad(), counter:
        functional_call(target, weights, inputs)
    flops = {operation.__name__: number for operation, number in counter.get_flop_counts().get("Global", {}).items()}
    # Products of two tensors with a batch, "bmm": attention where it is not one fused operation.
    attention = sum(number for name, number in flops.items() if "bmm" in name or "attention" in name)
    parameters = sum(weight.numel() for weight in module.parameters())
    return Count(parameters, (sum(flops.values()) - attention) // 2, attention // 2)


def _shape_only(value: Any) -> Any:
    """`value`, nested plain data too, with all tensors on the meta device."""
    if isinstance(value, Condition):
        return value.map(_shape_only)
    if isinstance(value, dict):
        return {key: _shape_only(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)([_shape_only(item) for item in value])
    return value.to("meta") if isinstance(value, Tensor) else value


class _Call(nn.Module):
    """A way to call a network, as a module."""

    def __init__(self, network: nn.Module, call: Callable[..., Any]) -> None:
        super().__init__()
        self.network, self.call = network, call

    def forward(self, *inputs: Any) -> Any:
        return self.call(self.network, *inputs)
