"""Kernel distance between the features of real and of generated clips: a maximum mean discrepancy without bias."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics.utilities.data import dim_zero_cat

from cmd_lightning.metrics.feature_metric import FeatureMetric, check_features

ROWS = 1024
"""Samples whose kernels with all others are held at once."""


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


class KernelVideoDistance(FeatureMetric):
    """Kernel distance between the features of real and of generated clips; about 0 is best.

    Unlike a Fréchet distance it has no bias: with few clips it only scatters more. `spread` tells by how much. The
    value is that of all clips at once, not multiplied by anything.

    All features are kept, in double precision.

    Args:
        feature: Network from clips `(B, C, T, H, W)`, float in [0, 1], to features `(B, d)`.
        num_features: d; if None, the network's attribute `num_features`, else found by trying.
        reset_real_features: Whether `reset` forgets the real clips too.
    """

    real_features: list[Tensor]
    fake_features: list[Tensor]

    def __init__(
        self,
        feature: nn.Module,
        num_features: int | None = None,
        reset_real_features: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(feature, num_features, reset_real_features, **kwargs)
        self.add_state("real_features", [], dist_reduce_fx="cat")
        self.add_state("fake_features", [], dist_reduce_fx="cat")

    def update(self, video: Tensor, real: bool) -> None:
        """Take in clips.

        Args:
            video: `(B, C, T, H, W)`, uint8 or float in [0, 1].
            real: Whether they are real, or generated.

        Raises:
            InputError: The clips or their features have another shape or range.
        """
        (self.real_features if real else self.fake_features).append(self.features(video))

    def compute(self) -> Tensor:
        """The distance, a scalar in double precision.

        Raises:
            RuntimeError: Fewer than two clips of either kind.
        """
        return kernel_distance(*self._both(2))

    def spread(self, subsets: int = 100, subset_size: int = 50, seed: int = 0) -> Tensor:
        """Standard deviation of the distance over random subsets of this size of the clips on this process.

        Args:
            subsets: How many pairs of subsets are drawn, at least 2.
            subset_size: Clips in each; the deviation is that of a distance measured with so few.
            seed: Of the choice.

        Raises:
            RuntimeError: Fewer than `subset_size` clips of either kind.
        """
        sets = self._both(subset_size)
        generator = torch.Generator().manual_seed(seed)
        values = [
            kernel_distance(*(x[torch.randperm(len(x), generator=generator)[:subset_size]] for x in sets))
            for _ in range(subsets)
        ]
        return torch.stack(values).std()

    def _both(self, least: int) -> tuple[Tensor, Tensor]:
        sets = [dim_zero_cat(x) if len(x) else torch.empty(0) for x in (self.real_features, self.fake_features)]
        self.check_counts(*map(len, sets), least)
        return sets[0], sets[1]
