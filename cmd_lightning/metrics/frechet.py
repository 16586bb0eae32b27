"""Fréchet distance between Gaussians fitted to the features of real and of generated clips."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics.utilities import rank_zero_warn

from cmd_lightning.errors import InputError
from cmd_lightning.metrics.feature_metric import FeatureDistance
from cmd_lightning.metrics.inputs import check_features
from cmd_lightning.metrics.preparation import Preparation

MOST_DRAWN = 10_000  # samples to estimate the bias of a number of clips; more have next to none


def frechet_distance(mean1: Tensor, cov1: Tensor, mean2: Tensor, cov2: Tensor) -> Tensor:
    """Squared Fréchet distance of two Gaussians, `|m1 - m2|² + tr(C1 + C2 - 2 (C1 C2)^½)`.

    With symmetric roots R of the covariances, the trace of the root of their product is the sum of the singular values
    of `R1 R2`. Nothing is squared on the way, so covariances without full rank do no harm.

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
    overlap = torch.linalg.svdvals(_root(mean1, cov1).T @ _root(mean2, cov2)).sum()
    return ((mean1 - mean2).square().sum() + cov1.trace() + cov2.trace() - 2 * overlap).clamp_min(0)


def _root(mean: Tensor, cov: Tensor) -> Tensor:
    """`A` with `A Aᵀ` the covariance."""
    values, vectors = torch.linalg.eigh((cov + cov.T) / 2)
    # Variances below the rounding of a covariance, which was a difference of sums as large as the mean's square, are
    # 0. Their roots would be 1e8 times larger than they are, and the sum of hundreds of them an error in every digit.
    rounding = torch.finfo(torch.float64).eps * (len(mean) * values[-1] + mean.square().sum())
    return vectors * torch.where(values > rounding, values, 0).sqrt()


def frechet_distance_from_features(x: Tensor, y: Tensor, unbiased: bool = True) -> Tensor:
    """Squared Fréchet distance of Gaussians fitted to two sets of features.

    With centred, scaled features A and B the trace of the root is the sum of the singular values of `A Bᵀ`. No
    covariance is formed.

    Args:
        x: `(N, d)`, N >= 2.
        y: `(M, d)`, M >= 2.
        unbiased: Whether covariances are sums over N - 1, or over N.

    Returns:
        A scalar in double precision, at least 0.

    Raises:
        InputError: The shapes do not fit, or there are too few samples.
    """
    check_features(x, y)
    x, y = x.double(), y.double()
    a, b = ((z - z.mean(0)) / (len(z) - unbiased) ** 0.5 for z in (x, y))
    # A = Q R with orthonormal columns of Q, so A Bᵀ has the singular values of the small R1 R2ᵀ.
    r1, r2 = (torch.linalg.qr(z, mode="r").R for z in (a, b))
    overlap = torch.linalg.svdvals(r1 @ r2.T).sum()
    spread = a.square().sum() + b.square().sum()
    return ((x.mean(0) - y.mean(0)).square().sum() + spread - 2 * overlap).clamp_min(0)


def moments(x: Tensor, unbiased: bool = True) -> tuple[Tensor, Tensor]:
    """Mean `(d,)` and covariance `(d, d)` of features `(N, d)`, in double precision."""
    x = x.double()
    centred = x - x.mean(0)
    return x.mean(0), centred.T @ centred / (len(x) - unbiased)


def sampling_bias(cov: Tensor, real: int, fake: int, unbiased: bool = True, seed: int = 0) -> Tensor:
    """Fréchet distance of two sets of these sizes from one Gaussian: what so few samples alone bring about.

    Of features that are not Gaussian it is an estimate. A covariance that is itself fitted to few samples lacks most of
    the variance that makes the distance: see `shrunk`.
    """
    generator = torch.Generator().manual_seed(seed)
    root = _root(torch.zeros(len(cov)), cov.double().cpu())
    sets = [
        torch.randn(min(size, MOST_DRAWN), len(root), generator=generator, dtype=torch.float64) @ root.T
        for size in (real, fake)
    ]
    return frechet_distance(*moments(sets[0], unbiased), *moments(sets[1], unbiased))


def shrunk(cov: Tensor, count: int) -> Tensor:
    """The covariance `(d, d)` fitted to `count` samples, drawn towards equal variances (OAS, arXiv 0907.4698)."""
    dim, trace, square = len(cov), cov.trace(), cov.square().sum()
    excess = square - trace**2 / dim
    share = ((1 - 2 / dim) * square + trace**2) / ((count + 1 - 2 / dim) * excess) if excess > 0 else trace.new_ones(())
    share = share.clamp_max(1)
    return (1 - share) * cov + share * trace / dim * torch.eye(dim, dtype=cov.dtype, device=cov.device)


class FrechetVideoDistance(FeatureDistance):
    """Squared Fréchet distance between the features of real and of generated clips; 0 is best.

    With the published I3D it is the FVD of the literature (Unterthiner et al. 2018, arXiv 1812.01717), as the lineage
    that `preset` names computes it; with any other network it is not. It is biased: the fewer clips, the larger,
    about as 1/N. Values compare only at equal numbers of clips, of equal frames, rate and size.

    Sums are kept in double precision, not features, so any number of clips takes the same room.

    Args:
        feature: Network from clips `(B, C, T, H, W)`, float in [0, 1], to features `(B, d)`; or a name or a weights
            file: see `open_feature`.
        preset: "stylegan-v", "videogpt", "tf", also with knobs set over it, as in "videogpt,antialias=true": see
            `Preparation`. The I3D's is "stylegan-v" by default; other networks get clips as they are.
        num_features: d; if None, the network's attribute `num_features`, else measured on a black clip.
        reset_real_features: Whether `reset` forgets the real clips too; False saves computing them each time.
        unbiased: Whether covariances are sums over N - 1, or over N; if None as the preset says, else over N - 1.
        keep_features: Keep the features instead of their sums, for `curve` and `interval`.

    Examples:
        Pixels as features: clips that are 0.1 brighter in each of 24 values are 24 * 0.1² apart.
        `FrechetVideoDistance()` uses the published I3D.

        >>> import torch
        >>> from cmd_lightning.metrics import FrechetVideoDistance
        >>> distance = FrechetVideoDistance(feature=torch.nn.Flatten(), num_features=24)
        >>> video = torch.rand(64, 3, 2, 2, 2) / 2
        >>> distance.update(video, real=True)
        >>> distance.update(video + 0.1, real=False)
        >>> round(distance.compute().item(), 4)
        0.24
    """

    plot_lower_bound = 0.0

    real_count: Tensor
    fake_count: Tensor

    def __init__(
        self,
        feature: nn.Module | str | Path = "i3d",
        preset: str | Preparation | None = None,
        num_features: int | None = None,
        reset_real_features: bool = True,
        unbiased: bool | None = None,
        keep_features: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(feature, preset, num_features, reset_real_features, keep_features, **kwargs)
        preparation = getattr(self.feature, "preparation", None)
        self.unbiased = unbiased if unbiased is not None else preparation.unbiased if preparation else True
        dim = self.num_features
        for kind in () if keep_features else ("real", "fake"):
            self.add_state(f"{kind}_count", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")
            self.add_state(f"{kind}_sum", torch.zeros(dim, dtype=torch.float64), dist_reduce_fx="sum")
            self.add_state(f"{kind}_gram", torch.zeros(dim, dim, dtype=torch.float64), dist_reduce_fx="sum")

    def _add(self, features: Tensor, real: bool) -> None:
        if self.keep_features:
            super()._add(features, real)
            return
        features, kind = features.double(), "real" if real else "fake"
        for state, part in (("count", len(features)), ("sum", features.sum(0)), ("gram", features.T @ features)):
            getattr(self, f"{kind}_{state}").add_(part)

    def counts(self) -> tuple[int, int]:
        """How many real and how many generated clips there are so far."""
        return super().counts() if self.keep_features else (int(self.real_count), int(self.fake_count))

    def distance(self, x: Tensor, y: Tensor) -> Tensor:
        """The distance of features of real clips `(N, d)` and of generated ones `(M, d)`, a scalar."""
        return frechet_distance_from_features(x, y, self.unbiased)

    def compute(self) -> Tensor:
        """The distance, a scalar in double precision.

        Warns if there are not more clips than features: it then measures their number more than anything else.

        Raises:
            InputError: Fewer than two clips of either kind, or clips of several shapes.
        """
        value, (real, fake) = super().compute(), self.counts()
        if min(real, fake) <= self.num_features:
            cov = moments(self.kept_features()[0], self.unbiased)[1] if self.keep_features else self._moments("real")[1]
            bias = sampling_bias(shrunk(cov, real), real, fake, self.unbiased)
            rank_zero_warn(
                f"{real} real and {fake} generated clips for {self.num_features} features: two sets as small from one "
                f"distribution would be roughly {bias:.3g} apart; give more clips (2048 is usual), or compare only "
                "values at these numbers"
            )
        return value

    def _value(self) -> Tensor:
        if self.keep_features:
            return super()._value()
        return frechet_distance(*self._moments("real"), *self._moments("fake"))

    def _moments(self, kind: str) -> tuple[Tensor, Tensor]:
        count, total, gram = (getattr(self, f"{kind}_{state}") for state in ("count", "sum", "gram"))
        mean = total / count
        return mean, (gram - count * mean.outer(mean)) / (count - int(self.unbiased))
