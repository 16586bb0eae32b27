"""Mean and variance of what all processes hold."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def mean_and_variance(values: Tensor, dim: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Mean and variance (without correction) over `dim`, of the values of all processes where there are several.

    All processes have to call it; they may hold different numbers of values.
    """
    variance, mean = torch.var_mean(values, dim=tuple(dim), correction=0)
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return mean, variance
    count = torch.full_like(mean, values.numel() / mean.numel())
    own = torch.stack([count, mean, variance])
    parts = [torch.empty_like(own) for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather(parts, own)
    count, mean, variance = torch.stack(parts, dim=1)  # (processes, ...) each
    share = count / count.sum(dim=0)
    whole = (share * mean).sum(dim=0)
    return whole, (share * (variance + (mean - whole).square())).sum(dim=0)
