"""Kernel distance between the features of real and of generated clips: a maximum mean discrepancy without bias."""

from __future__ import annotations

import torch
from torch import Tensor

from cmd_lightning.metrics.feature_metric import FeatureDistance
from cmd_lightning.metrics.inputs import check_features

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
    value is that of all clips at once, not multiplied by anything. Over the published I3D it is the KVD of the
    literature; over features that see motion, of VideoMAE or V-JEPA, it stands beside FVD, which hardly does
    (arXiv 2404.12391, 2410.05203).

    All features are kept. Arguments are those of `FeatureDistance`.
    """

    def distance(self, x: Tensor, y: Tensor) -> Tensor:
        """As for `FeatureDistance`."""
        return kernel_distance(x, y)
