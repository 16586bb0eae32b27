"""What keeps sums and weights in their precision when the module around them is cast."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

from torch import Tensor, nn


def own_precision(fn: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """What a module's `_apply` is given, without the change of type: tensors move, and keep theirs.

    For overrides of `_apply`. torchmetrics guards states against `.half()` and the like, not against `.to(torch.half)`.
    """

    def move(tensor: Tensor) -> Tensor:
        moved = fn(tensor)
        return moved if moved.dtype == tensor.dtype else tensor.to(moved.device)

    return move


class KeepsPrecision(nn.Module):
    """A base for modules that move with the module around them, and are not cast with it."""

    def _apply(self, fn: Callable[[Tensor], Tensor], *args: Any, **kwargs: Any) -> Self:
        return super()._apply(own_precision(fn), *args, **kwargs)


class OwnPrecision(KeepsPrecision, nn.ModuleDict):
    """Modules by name that move with the module around them, and are not cast with it."""
