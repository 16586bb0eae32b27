import pytest
import torch
from torch import nn
from torch.multiprocessing import spawn
from torchmetrics.image.fid import FrechetInceptionDistance

from cmd_lightning.errors import InputError
from cmd_lightning.metrics.frechet import FrechetVideoDistance, frechet_distance, frechet_distance_from_features


class Projection(nn.Module):
    """Random features of a clip's pixels, shifted and bent."""

    def __init__(self, pixels=3 * 4 * 6 * 5, dim=7):
        super().__init__()
        self.num_features = dim
        generator = torch.Generator().manual_seed(5)
        self.weight = nn.Parameter(torch.randn(pixels, dim, generator=generator) / pixels**0.5)
        self.dropout = nn.Dropout(0.5)

    def forward(self, video):
        return self.dropout(3 + torch.sin(4 * (video.to(self.weight) - 0.5).flatten(1) @ self.weight))


def clips(count, seed=0, shift=0.0):
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(count, 3, 4, 6, 5, generator=generator) ** (1 + shift)).clamp(0, 1)


def moments(x):
    return x.mean(0), torch.cov(x.T)


def samples(count, dim, seed=0):
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(dim, dim, generator=generator, dtype=torch.float64)
    return torch.randn(count, dim, generator=generator, dtype=torch.float64) @ mix + seed


def test_isotropic_gaussians():
    dim = 6
    mean1, mean2, eye = torch.randn(dim), torch.randn(dim), torch.eye(dim)
    expected = (mean1 - mean2).square().sum() + dim * (1.5 - 0.4) ** 2
    distance = frechet_distance(mean1, 1.5**2 * eye, mean2, 0.4**2 * eye)
    torch.testing.assert_close(distance, expected.double(), atol=1e-5, rtol=1e-5)


def test_commuting_covariances():
    vectors = torch.linalg.qr(torch.randn(5, 5, dtype=torch.float64)).Q
    a, b = torch.rand(2, 5, dtype=torch.float64)
    zero = torch.zeros(5)
    distance = frechet_distance(zero, vectors * a @ vectors.T, zero, vectors * b @ vectors.T)
    torch.testing.assert_close(distance, (a.sqrt() - b.sqrt()).square().sum())


def test_covariances_of_rank_one():
    u, v = torch.randn(2, 5, dtype=torch.float64)
    zero = torch.zeros(5)
    # (√C1 C2 √C1)^½ has the one value |u·v|.
    expected = u.square().sum() + v.square().sum() - 2 * (u @ v).abs()
    torch.testing.assert_close(frechet_distance(zero, u.outer(u), zero, v.outer(v)), expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("count", [9, 40])
def test_both_ways_agree(count):
    x, y = samples(count, 16, seed=1), samples(count + 3, 16, seed=2)
    # Not symmetric, so by complex eigenvalues: another way to the trace of the root.
    (m1, c1), (m2, c2) = moments(x), moments(y)
    root = torch.linalg.eigvals(c1 @ c2).sqrt().real.sum()
    expected = (m1 - m2).square().sum() + c1.trace() + c2.trace() - 2 * root
    torch.testing.assert_close(frechet_distance(m1, c1, m2, c2), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(frechet_distance_from_features(x, y), expected, rtol=1e-5, atol=1e-5)


def test_fewer_samples_than_dimensions_is_exact():
    """Two points each: along u and v of half lengths a and b, at an angle known by construction."""
    u, v = torch.zeros(2, 50, dtype=torch.float64)
    u[0], v[0], v[1] = 1.0, 0.6, 0.8
    x, y = torch.stack([3 * u, -3 * u]), torch.stack([2 * v, -2 * v])
    expected = 2 * 9 + 2 * 4 - 2 * (2 * 3 * 2 * 0.6)
    assert frechet_distance_from_features(x, y).item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("count", [5, 100])
def test_identical_sets_are_at_zero(count):
    x = samples(count, 30, seed=3)
    assert frechet_distance_from_features(x, x.flip(0)) < 1e-9 * x.square().sum()
    assert 0 <= frechet_distance(*moments(x), *moments(x)) < 1e-3


def test_metric_agrees_with_torchmetrics():
    ours = FrechetVideoDistance(Projection())
    theirs = FrechetInceptionDistance(feature=Projection().eval())
    for metric in (ours, theirs):
        for part in clips(60).split(25):
            metric.update(part, real=True)
        metric.update(clips(45, seed=1, shift=0.3), real=False)
    value = ours.compute()
    assert value > 0.1
    torch.testing.assert_close(value, theirs.compute().double(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("batch", [1, 7, 50])
def test_batches_change_nothing(batch):
    metric = FrechetVideoDistance(Projection())
    real, fake = clips(50), clips(31, seed=1, shift=0.2)
    for kind, video in ((True, real), (False, fake)):
        for part in video.split(batch):
            metric.update(part, real=kind)
    feature = Projection().eval()
    torch.testing.assert_close(
        metric.compute(),
        frechet_distance_from_features(feature(real), feature(fake)).detach(),
        rtol=1e-5,
        atol=1e-6,
    )


def test_uint8_is_the_same_as_floats():
    values = []
    for scale in (1, 255):
        metric = FrechetVideoDistance(Projection())
        for real in (True, False):
            levels = (clips(20, seed=int(real)) * 255).round().byte()
            metric.update(levels / 255 if scale == 1 else levels, real=real)
        values.append(metric.compute())
    torch.testing.assert_close(*values)


def test_reset_can_keep_the_real_clips():
    metric = FrechetVideoDistance(Projection(), reset_real_features=False)
    metric.update(clips(20), real=True)
    metric.update(clips(20, seed=1), real=False)
    first = metric.compute()
    metric.reset()
    with pytest.raises(RuntimeError, match="not 20 and 0"):
        metric.compute()
    metric.update(clips(20, seed=1), real=False)
    torch.testing.assert_close(metric.compute(), first, rtol=0, atol=0)
    forgetful = FrechetVideoDistance(Projection())
    forgetful.update(clips(20), real=True)
    forgetful.reset()
    assert forgetful.real_count == 0


def test_network_stays_in_evaluation_mode():
    metric = FrechetVideoDistance(Projection())
    nn.ModuleList([metric]).train()
    assert not metric.feature.training
    assert not any(parameter.requires_grad for parameter in metric.parameters())


def test_number_of_features_is_found():
    assert FrechetVideoDistance(nn.Sequential(nn.AdaptiveAvgPool3d((1, 2, 2)), nn.Flatten())).num_features == 12
    with pytest.raises(InputError, match="num_features"):
        FrechetVideoDistance(nn.Linear(5, 2))


def test_wrong_input_is_refused():
    metric = FrechetVideoDistance(Projection())
    metric.update(clips(1), real=True)
    metric.update(clips(2), real=False)
    with pytest.raises(RuntimeError, match="at least 2"):
        metric.compute()
    with pytest.raises(InputError, match="0, 1"):
        metric.update(clips(2) * 2 - 1, real=True)
    with pytest.raises(InputError, match="B, C, T, H, W"):
        metric.update(clips(2)[0], real=True)
    with pytest.raises(InputError, match="feature"):
        FrechetVideoDistance(nn.Flatten(), num_features=4).update(clips(2), real=True)
    with pytest.raises(InputError, match="shapes"):
        frechet_distance(torch.zeros(3), torch.eye(3), torch.zeros(2), torch.eye(2))
    with pytest.raises(InputError, match="at least two"):
        frechet_distance_from_features(torch.zeros(1, 3), torch.zeros(4, 3))


def one_of_two(rank, path):
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"file://{path}", rank=rank, world_size=2)
    metric = FrechetVideoDistance(Projection())
    counts = ((0, 12), (12, 31))  # uneven
    first, last = counts[rank]
    metric.update(clips(31)[first:last], real=True)
    metric.update(clips(31, seed=1)[first:last], real=False)
    value = metric.compute()
    if rank == 0:
        torch.save(value, f"{path}.value")
    torch.distributed.destroy_process_group()


def test_two_processes_are_one(tmp_path):
    spawn(one_of_two, (str(tmp_path / "meet"),), nprocs=2)
    metric = FrechetVideoDistance(Projection())
    metric.update(clips(31), real=True)
    metric.update(clips(31, seed=1), real=False)
    torch.testing.assert_close(torch.load(tmp_path / "meet.value", weights_only=True), metric.compute())
