"""Statistics of a few seeds: a mean with its interval, and whether a difference is significant."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

T_QUANTILES = (12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622)
"""97.5 % quantiles of Student's t distribution with 1, 2, ... degrees of freedom."""

MOST_SEEDS = len(T_QUANTILES) + 1


@dataclass(frozen=True)
class Estimate:
    """A mean and its 95 % interval `mean ± half`; infinite for a single value.

    Attributes:
        mean: The mean.
        half: Half the width of the interval.
    """

    mean: float
    half: float

    @property
    def decided(self) -> bool:
        """Whether the interval excludes 0."""
        return abs(self.mean) > self.half

    def __format__(self, spec: str) -> str:
        """The mean in the format `spec`, and half the width in the same format, without a sign."""
        half = f" ± {self.half:{spec.removeprefix('+')}}" if math.isfinite(self.half) else ""
        return f"{self.mean:{spec}}{half}"


def estimate(values: Sequence[float]) -> Estimate:
    """The mean of one to `MOST_SEEDS` independent values, with its t interval."""
    if len(values) == 1:
        return Estimate(values[0], math.inf)
    half = T_QUANTILES[len(values) - 2] * statistics.stdev(values) / math.sqrt(len(values))
    return Estimate(statistics.fmean(values), half)


def difference(own: Mapping[int, float], other: Mapping[int, float]) -> Estimate | None:
    """The mean of `own - other` over common seeds, with the same data and noise; None without any."""
    common = sorted(own.keys() & other.keys())
    return estimate([own[seed] - other[seed] for seed in common]) if common else None
