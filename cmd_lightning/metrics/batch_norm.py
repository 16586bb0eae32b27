"""set_batch_norm_eps: the epsilon of batch norms, also where TorchScript holds it as a constant."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from cmd_lightning.errors import InputError

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


@torch.no_grad()
def set_batch_norm_eps(network: nn.Module, eps: float) -> None:
    """Give all batch norms of a network this epsilon, in place.

    Batch norms in evaluation mode divide by `√(variance + epsilon)`. Where epsilon is a constant of TorchScript, the
    difference is added to the variance, which amounts to the same.

    Args:
        network: Whatever it is made of. If it says in `batch_norm_eps` that it has this epsilon, it is left as it is.
        eps: At least 0.

    Raises:
        InputError: TorchScript in which no batch norms are found, as they may be folded into convolutions.
    """
    if getattr(network, "batch_norm_eps", None) == eps:
        return
    if isinstance(network, torch.jit.ScriptModule):
        _shift_variances(network, eps)
    elif isinstance(network, BATCH_NORMS):
        network.eps = eps
    else:
        for child in network.children():
            set_batch_norm_eps(child, eps)


def _shift_variances(script: torch.jit.ScriptModule, eps: float) -> None:
    # The graph tells both of scripted and of traced networks, and of batch norms that are no modules of their own.
    graph: Any = script.inlined_graph  # its nodes live as long as it does
    shifts: dict[tuple[str, ...], float] = {}
    for node in graph.findAllNodes("aten::batch_norm"):
        _, _, _, _, variance, _, _, baked, _ = node.inputs()
        shifts[_path(variance)] = eps - _value(script, baked)
    if not shifts or () in shifts:
        raise InputError(
            f"batch_norm_eps {eps:g}: the TorchScript network does not show its batch norms, to which it would apply; "
            "set batch_norm_eps=none to take them as they are, or give a plain state dict"
        )
    for path, shift in shifts.items():
        _get(script, path).add_(shift)


def _path(value: Any) -> tuple[str, ...]:
    """Names that lead from the network to what a value of its graph holds; empty if it is no attribute."""
    names, node = [], value.node()
    while node.kind() == "prim::GetAttr":
        names.append(node.s("name"))
        node = next(node.inputs()).node()
    return tuple(reversed(names)) if node.kind() == "prim::Param" else ()


def _get(script: torch.jit.ScriptModule, path: tuple[str, ...]) -> Any:
    for name in path:
        script = getattr(script, name)
    return script


def _value(script: torch.jit.ScriptModule, value: Any) -> float:
    path = _path(value)
    return _get(script, path) if path else value.toIValue()
