"""What a few seeds say: a mean with its interval, and whether a difference is more than their spread."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

T_QUANTILES = (12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622)
"""97.5 % quantiles of Student's t distribution with 1, 2, ... degrees of freedom."""

MOST_SEEDS = len(T_QUANTILES) + 1


@dataclass(frozen=True)
class Interval:
    """A mean and its 95 % interval `mean ± half`; of a single value the half is infinite.

    Attributes:
        mean: Of the values.
        half: Half of the width.
    """

    mean: float
    half: float

    @property
    def decided(self) -> bool:
        """Whether it leaves out 0."""
        return abs(self.mean) > self.half

    def __format__(self, spec: str) -> str:
        """The mean as `spec` says, and the half of the width likewise, without a sign."""
        half = f" ± {self.half:{spec.removeprefix('+')}}" if math.isfinite(self.half) else ""
        return f"{self.mean:{spec}}{half}"


def interval(values: Sequence[float]) -> Interval:
    """The t interval of independent values, one to `MOST_SEEDS` of them."""
    if len(values) == 1:
        return Interval(values[0], math.inf)
    half = T_QUANTILES[len(values) - 2] * statistics.stdev(values) / math.sqrt(len(values))
    return Interval(statistics.fmean(values), half)


def difference(own: Mapping[int, float], other: Mapping[int, float]) -> Interval | None:
    """The interval of the differences of the seeds that both have, as each saw the same data and noise; None without.

    Args:
        own: Values by seed.
        other: Values by seed, which are taken off.
    """
    common = sorted(own.keys() & other.keys())
    return interval([own[seed] - other[seed] for seed in common]) if common else None
