import pytest
import torch
from torch import nn
from torchmetrics.image.kid import KernelInceptionDistance

from cmd_lightning.errors import InputError
from cmd_lightning.metrics import kernel
from cmd_lightning.metrics.kernel import KernelVideoDistance, kernel_distance


class Means(nn.Module):
    num_features = 24

    def forward(self, video):
        return 4 * nn.functional.adaptive_avg_pool3d(video, (2, 2, 2)).flatten(1)


def clips(count, seed=0, power=1.0):
    return torch.rand(count, 3, 4, 6, 4, generator=torch.Generator().manual_seed(seed)) ** power


def by_hand(x, y):
    """The definition, pair by pair (Gretton et al. 2012, equation 3)."""

    def k(a, b):
        return (float(a @ b) / len(a) + 1) ** 3

    n, m = len(x), len(y)
    within_x = sum(k(x[i], x[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    within_y = sum(k(y[i], y[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    return within_x + within_y - 2 * sum(k(a, b) for a in x for b in y) / (n * m)


@pytest.mark.parametrize("rows", [2, 1024])
def test_kernel_distance_is_its_definition(rows, monkeypatch):
    monkeypatch.setattr(kernel, "ROWS", rows)
    x, y = torch.randn(9, 5, dtype=torch.float64), torch.randn(6, 5, dtype=torch.float64) + 0.5
    assert kernel_distance(x, y).item() == pytest.approx(by_hand(x, y), rel=1e-10)


def test_without_bias():
    """The mean over many draws of one distribution is 0 within its error; a biased estimate's is far above."""
    values = torch.stack([kernel_distance(torch.randn(10, 4), torch.randn(10, 4)) for _ in range(400)])
    assert abs(values.mean()) < 3.5 * values.std() / 400**0.5


def test_metric_agrees_with_torchmetrics():
    ours = KernelVideoDistance(Means())
    theirs = KernelInceptionDistance(feature=Means(), subsets=1, subset_size=40)
    for metric in (ours, theirs):
        for part in clips(40).split(13):
            metric.update(part, real=True)
        metric.update(clips(40, seed=1, power=1.3), real=False)
    value, expected = ours.compute(), theirs.compute()[0]
    assert value > 0.01
    torch.testing.assert_close(value, expected.double(), rtol=1e-3, atol=1e-5)


def test_interval_scatters_as_independent_sets_do():
    def metric(seed):
        metric = KernelVideoDistance(Means())
        metric.update(clips(60, seed=seed), real=True)
        metric.update(clips(60, seed=seed + 1000, power=1.3), real=False)
        return metric

    values = torch.stack([metric(seed).compute() for seed in range(100)])
    one = metric(0)
    low, high = one.interval(resamples=200)
    assert low < one.compute() < high
    assert high - low == pytest.approx(2 * 1.96 * values.std().item(), rel=0.35)
    assert one.interval(resamples=5, seed=1) == one.interval(resamples=5, seed=1)


def test_reset_can_keep_the_real_clips():
    metric = KernelVideoDistance(Means(), reset_real_features=False)
    metric.update(clips(9), real=True)
    metric.update(clips(9, seed=1), real=False)
    first = metric.compute()
    for _ in range(2):
        metric.reset()
        assert not metric.fake_features
        metric.update(clips(9, seed=1), real=False)
        assert metric.compute() == first


def test_wrong_input_is_rejected():
    metric = KernelVideoDistance(Means())
    with pytest.raises(InputError, match="not 0 and 0"):
        metric.compute()
    with pytest.raises(InputError, match="0, 1"):
        metric.update(clips(2) * 255, real=True)
    with pytest.raises(InputError, match="at least two"):
        kernel_distance(torch.zeros(1, 3), torch.zeros(4, 3))
    with pytest.raises(InputError, match="shapes"):
        kernel_distance(torch.zeros(4, 2), torch.zeros(4, 3))
