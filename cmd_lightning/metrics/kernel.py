"""Kernel distance between the features of real and of generated clips: a maximum mean discrepancy without bias."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cmd_lightning.metrics.feature_metric import FeatureDistance
from cmd_lightning.metrics.inputs import check_features
from cmd_lightning.metrics.preparation import Preparation

ROWS = 256  # samples whose kernels with all others are held at once


def kernel_distance(x: Tensor, y: Tensor) -> Tensor:
    """Unbiased squared maximum mean discrepancy with the kernel `(x·y / d + 1)³`.

    Args:
        x: Features `(N, d)`, N >= 2.
        y: Features `(M, d)`, M >= 2.

    Returns:
        A scalar in double precision; of two sets of one distribution around 0, so at times negative.

    Raises:
        InputError: The shapes do not fit, or there are too few samples.
    """
    check_features(x, y)
    x, y = x.double(), y.double()
    within = (_mean_of_pairs(z) for z in (x, y))
    return sum(within) - 2 * _sum(x, y) / (len(x) * len(y))


def _kernel(dots: Tensor, dim: int) -> Tensor:
    return (dots / dim + 1) ** 3


def _sum(x: Tensor, y: Tensor) -> Tensor:
    return torch.stack([_kernel(rows @ y.T, x.shape[1]).sum() for rows in x.split(ROWS)]).sum()


def _mean_of_pairs(x: Tensor) -> Tensor:
    # A sample paired with itself is what would make it biased.
    own = _kernel(x.square().sum(1), x.shape[1]).sum()
    return (_sum(x, x) - own) / (len(x) * (len(x) - 1))


class KernelVideoDistance(FeatureDistance):
    """Kernel distance between the features of real and of generated clips; about 0 is best.

    Unlike a Fréchet distance it has no bias: with few clips it only scatters more. `interval` tells by how much. The
    value is that of all clips at once, not multiplied by anything. On the published I3D it is the KVD of the
    literature; on features that see motion, of VideoMAE or V-JEPA, it complements FVD, which hardly does
    (arXiv 2404.12391, 2410.05203).

    All features are kept.

    Args:
        feature: Network from clips `(B, C, T, H, W)`, float in [0, 1], to features `(B, d)`; or a name or a weights
            file: see `open_feature`.
        preset: How clips are prepared: see `Preparation`.
        num_features: d; if None, the network's attribute `num_features`, else measured on a black clip.
        reset_real_features: Whether `reset` forgets the real clips too; False saves computing them each time.

    Examples:
        Pixels as features; `KernelVideoDistance()` uses the published I3D.

        >>> import torch
        >>> from cmd_lightning.metrics import KernelVideoDistance
        >>> distance = KernelVideoDistance(feature=torch.nn.Flatten(), num_features=24)
        >>> distance.update(torch.zeros(8, 3, 2, 2, 2), real=True)
        >>> distance.update(torch.ones(8, 3, 2, 2, 2), real=False)
        >>> distance.compute()  # (0 + 1)³ + (1 + 1)³ - 2 (0 + 1)³
        tensor(7., dtype=torch.float64)
    """

    def __init__(
        self,
        feature: nn.Module | str | Path = "i3d",
        preset: str | Preparation | None = None,
        num_features: int | None = None,
        reset_real_features: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(feature, preset, num_features, reset_real_features, keep_features=True, **kwargs)

    def distance(self, x: Tensor, y: Tensor) -> Tensor:
        """The distance of features of real clips `(N, d)` and of generated ones `(M, d)`, a scalar."""
        return kernel_distance(x, y)
