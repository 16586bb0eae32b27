"""Intervals against Student's t distribution, in closed form for integer degrees of freedom."""

import math
import statistics

import pytest

from cmd_lightning.ranking.estimates import MOST_SEEDS, T_QUANTILES, Estimate, difference, estimate


def probability(t, degrees):
    """P(|T| < t), the finite series of Abramowitz and Stegun 26.7.3 and 26.7.4."""
    angle = math.atan(t / math.sqrt(degrees))
    if degrees == 1:
        return 2 * angle / math.pi
    odd = degrees % 2
    term = math.cos(angle) if odd else 1.0
    total = term
    for k in range(3 if odd else 2, degrees - 1, 2):
        term *= (k - 1) / k * math.cos(angle) ** 2
        total += term
    return 2 / math.pi * (angle + math.sin(angle) * total) if odd else math.sin(angle) * total


def test_quantiles_are_those_of_the_t_distribution():
    assert len(T_QUANTILES) == MOST_SEEDS - 1
    for degrees, quantile in enumerate(T_QUANTILES, 1):
        assert probability(quantile, degrees) == pytest.approx(0.95, abs=1e-5)


def test_the_interval_of_three_seeds():
    values = [4.0, 5.0, 7.5]
    found = estimate(values)
    assert found.mean == pytest.approx(5.5)
    assert found.half == pytest.approx(4.303 * statistics.stdev(values) / 3**0.5, rel=1e-3)
    assert f"{estimate([1.0, 1.0]):.2f}" == "1.00 ± 0.00"
    assert f"{estimate([1.0, 1.0]):+.1f}" == "+1.0 ± 0.0"


def test_one_seed_decides_nothing():
    assert not estimate([3.0]).decided
    assert f"{estimate([3.0]):.2f}" == "3.00"


def test_differences_are_paired_by_seed():
    # Seeds differ much more than the two models do: unpaired, the difference would be undecided.
    other = {0: 1.0, 1: 5.0, 2: 9.0, 3: 40.0}
    own = {2: 9.52, 0: 1.5, 1: 5.49}
    found = difference(own, other)
    assert found.mean == pytest.approx((0.5 + 0.49 + 0.52) / 3)
    assert found.decided
    assert not Estimate(0.5, 0.6).decided
    assert difference({0: 1.0}, {1: 1.0}) is None
