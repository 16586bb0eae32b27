"""Weights and gradients of which every process holds a part (DTensors): the part, the whole, and what all agree on."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor


def local(tensor: Tensor) -> Tensor:
    """What this process holds of `tensor`, which may be nothing; the tensor itself if it is not sharded."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def gathered(value: Any, keep: bool) -> Any:
    """Nested plain data with whole tensors, on the CPU where they were sharded, where `keep`; all processes call it."""
    if isinstance(value, DTensor):
        full = value.full_tensor()  # one at a time on the device
        return full.cpu() if keep else None
    if isinstance(value, dict):
        found = {key: gathered(item, keep) for key, item in value.items()}
        return {key: item for key, item in found.items() if keep or not isinstance(value[key], DTensor)}
    if isinstance(value, list | tuple):
        return type(value)(gathered(item, keep) for item in value)
    return value


def sharded_like(tensor: Tensor, weight: Tensor) -> Tensor:
    """A whole `tensor`, the same on all processes, sharded as `weight` is; itself if that is not sharded."""
    if not isinstance(weight, DTensor):
        return tensor
    return distribute_tensor(tensor, weight.device_mesh, weight.placements, src_data_rank=None)


def finite(tensors: Iterable[Tensor]) -> Tensor:
    """Whether what this process holds is without NaN and infinity, a scalar of bool; waits for no one."""
    # The largest magnitude cannot overflow as a sum would; an empty tensor has no maximum.
    parts = [part for part in map(local, tensors) if part.numel()]
    return torch.nn.utils.get_total_norm(parts, norm_type=float("inf")).isfinite() if parts else torch.tensor(True)


def finite_everywhere(tensors: Iterable[Tensor]) -> bool:
    """Whether `tensors` are without NaN and infinity, also the parts that other processes hold."""
    tensors = list(tensors)
    verdict = finite(tensors)
    sharded = next((tensor for tensor in tensors if isinstance(tensor, DTensor)), None)
    if sharded is not None:
        verdict = verdict.to(sharded.device, torch.float32)
        torch.distributed.all_reduce(verdict, torch.distributed.ReduceOp.MIN, sharded.device_mesh.get_group())
    return bool(verdict)
