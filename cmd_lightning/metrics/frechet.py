"""Fréchet distance between Gaussians fitted to the features of real and of generated clips."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from cmd_lightning.errors import InputError
from cmd_lightning.metrics.feature_metric import FeatureMetric, check_features


def frechet_distance(mean1: Tensor, cov1: Tensor, mean2: Tensor, cov2: Tensor) -> Tensor:
    """Squared Fréchet distance of two Gaussians, `|m1 - m2|² + tr(C1 + C2 - 2 (C1 C2)^½)`.

    The trace of the root is that of the symmetric `(√C1 C2 √C1)^½`, so that singular covariances do no harm.

    Args:
        mean1: `(d,)`.
        cov1: `(d, d)`.
        mean2: `(d,)`.
        cov2: `(d, d)`.

    Returns:
        A scalar in double precision, at least 0.

    Raises:
        InputError: The shapes do not fit.
    """
    mean1, cov1, mean2, cov2 = (x.double() for x in (mean1, cov1, mean2, cov2))
    dim = len(mean1)
    if mean2.shape != (dim,) or cov1.shape != (dim, dim) or cov2.shape != (dim, dim):
        shapes = ", ".join(str(tuple(x.shape)) for x in (mean1, cov1, mean2, cov2))
        raise InputError(f"means and covariances of shapes {shapes}: give (d,), (d, d), (d,), (d, d)")
    values, vectors = torch.linalg.eigh((cov1 + cov1.T) / 2)
    root = vectors * values.clamp_min(0).sqrt() @ vectors.T
    sandwich = root @ ((cov2 + cov2.T) / 2) @ root
    overlap = torch.linalg.eigvalsh((sandwich + sandwich.T) / 2).clamp_min(0).sqrt().sum()
    return ((mean1 - mean2).square().sum() + cov1.trace() + cov2.trace() - 2 * overlap).clamp_min(0)


def frechet_distance_from_features(x: Tensor, y: Tensor) -> Tensor:
    """Squared Fréchet distance of Gaussians fitted to two sets of features, by unbiased covariances.

    With centred, scaled features A and B the trace of the root is the sum of the singular values of `A Bᵀ`. No
    covariance is formed, so this is exact to rounding also with fewer samples than dimensions, where
    `frechet_distance` loses half of the digits.

    Args:
        x: `(N, d)`, N >= 2.
        y: `(M, d)`, M >= 2.

    Returns:
        A scalar in double precision, at least 0.

    Raises:
        InputError: The shapes do not fit, or there are too few samples.
    """
    check_features(x, y)
    x, y = x.double(), y.double()
    a, b = ((z - z.mean(0)) / (len(z) - 1) ** 0.5 for z in (x, y))
    # A = Q R with orthonormal columns of Q, so A Bᵀ has the singular values of the small R1 R2ᵀ.
    r1, r2 = (torch.linalg.qr(z, mode="r").R for z in (a, b))
    overlap = torch.linalg.svdvals(r1 @ r2.T).sum()
    spread = a.square().sum() + b.square().sum()
    return ((x.mean(0) - y.mean(0)).square().sum() + spread - 2 * overlap).clamp_min(0)


class FrechetVideoDistance(FeatureMetric):
    """Squared Fréchet distance between the features of real and of generated clips; 0 is best.

    It is biased: the fewer clips, the larger, about as 1/N. Values compare only at equal numbers of clips, of equal
    frames, rate and size, and by the same network; only with the published I3D are they the FVD of the literature.

    Sums are kept in double precision, never the features, so any number of clips takes the same room.

    Args:
        feature: Network from clips `(B, C, T, H, W)`, float in [0, 1], to features `(B, d)`.
        num_features: d; if None, the network's attribute `num_features`, else found by trying.
        reset_real_features: Whether `reset` forgets the real clips too.
    """

    plot_lower_bound = 0.0

    real_count: Tensor
    real_sum: Tensor
    real_gram: Tensor
    fake_count: Tensor
    fake_sum: Tensor
    fake_gram: Tensor

    def __init__(
        self,
        feature: nn.Module,
        num_features: int | None = None,
        reset_real_features: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(feature, num_features, reset_real_features, **kwargs)
        dim = self.num_features
        for kind in ("real", "fake"):
            self.add_state(f"{kind}_count", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")
            self.add_state(f"{kind}_sum", torch.zeros(dim, dtype=torch.float64), dist_reduce_fx="sum")
            self.add_state(f"{kind}_gram", torch.zeros(dim, dim, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, video: Tensor, real: bool) -> None:
        """Take in clips.

        Args:
            video: `(B, C, T, H, W)`, uint8 or float in [0, 1].
            real: Whether they are real, or generated.

        Raises:
            InputError: The clips or their features have another shape or range.
        """
        features = self.features(video)
        if real:
            self.real_count += len(features)
            self.real_sum += features.sum(0)
            self.real_gram += features.T @ features
        else:
            self.fake_count += len(features)
            self.fake_sum += features.sum(0)
            self.fake_gram += features.T @ features

    def compute(self) -> Tensor:
        """The distance, a scalar in double precision.

        Raises:
            RuntimeError: Fewer than two clips of either kind.
        """
        self.check_counts(int(self.real_count), int(self.fake_count))
        real = _moments(self.real_count, self.real_sum, self.real_gram)
        return frechet_distance(*real, *_moments(self.fake_count, self.fake_sum, self.fake_gram))


def _moments(count: Tensor, total: Tensor, gram: Tensor) -> tuple[Tensor, Tensor]:
    mean = total / count
    return mean, (gram - count * mean.outer(mean)) / (count - 1)
