import pytest
import torch

from cmd_lightning.errors import InputError
from cmd_lightning.metrics.frechet import frechet_distance_from_features
from cmd_lightning.metrics.sample_size import bootstrap_interval, distance_curve, extrapolated


def test_curve_is_of_every_sample_at_each_size():
    x, y = torch.arange(24.0)[:, None], torch.arange(12.0)[:, None]
    seen = []

    def distance(a, b):
        seen.append((sorted(a.flatten().tolist()), sorted(b.flatten().tolist())))
        return a.mean() - b.mean()

    curve = distance_curve(x, y, distance)
    assert list(curve) == [3, 6, 12]
    assert [(len(a), len(b)) for a, b in seen] == [(6, 3)] * 4 + [(12, 6)] * 2 + [(24, 12)]
    for part in (seen[:4], seen[4:6], seen[6:]):
        assert sorted(value for a, _ in part for value in a) == x.flatten().tolist()
        assert sorted(value for _, b in part for value in b) == y.flatten().tolist()
    assert all(value == pytest.approx(11.5 - 5.5) for value in curve.values())
    with pytest.raises(InputError, match="at least eight"):
        distance_curve(x, y[:7], distance)


def test_line_over_one_by_n():
    assert extrapolated({128: 5 + 300 / 128, 256: 5 + 300 / 256, 512: 5 + 300 / 512}) == pytest.approx(5)
    assert extrapolated({100: 3.0, 200: 2.0}) == pytest.approx(1.0)


def test_extrapolation_takes_the_bias_away():
    """Gaussians at a known distance: |shift|² = 1 of 6 dimensions."""
    x, y = torch.randn(2, 1600, 6, dtype=torch.float64)
    y[:, 0] += 1
    curve = distance_curve(x, y, frechet_distance_from_features)
    assert curve[400] > curve[800] > curve[1600] > 1
    assert abs(extrapolated(curve) - 1) < 0.5 * (curve[400] - 1)


def test_interval_covers_the_scatter_of_the_mean():
    """Of means, where the scatter is known: sqrt(1/400 + 1/100)."""
    x, y = torch.randn(400, 1, dtype=torch.float64), torch.randn(100, 1, dtype=torch.float64) + 3
    low, high = bootstrap_interval(x, y, lambda a, b: b.mean() - a.mean(), resamples=800)
    assert (high + low) / 2 == pytest.approx(float(y.mean() - x.mean()), abs=0.03)
    assert high - low == pytest.approx(2 * 1.96 * (1 / 400 + 1 / 100) ** 0.5, rel=0.15)
    with pytest.raises(InputError, match="resamples 1"):
        bootstrap_interval(x, y, lambda a, b: b.mean(), resamples=1)
