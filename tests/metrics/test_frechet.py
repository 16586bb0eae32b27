import pickle

import pytest
import torch
from torch import nn
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.wrappers import FeatureShare
from two_processes import run_two

from cmd_lightning.errors import InputError
from cmd_lightning.metrics.frechet import (
    FrechetVideoDistance,
    frechet_distance,
    frechet_distance_from_features,
    sampling_bias,
)
from cmd_lightning.metrics.kernel import KernelVideoDistance
from cmd_lightning.metrics.preparation import PRESETS


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


class Identity(nn.Module):
    """The pixels themselves, in the precision of the clips."""

    num_features = 3 * 4 * 6 * 5

    def forward(self, video):
        return video.flatten(1)


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
    torch.testing.assert_close(frechet_distance(zero, u.outer(u), zero, v.outer(v)), expected, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("count", [9, 40])
@pytest.mark.parametrize("shift", [0, 30])
def test_all_ways_agree_also_without_full_rank(count, shift):
    x, y = samples(count, 16, seed=1) + shift, samples(count + 3, 16, seed=2) + shift
    (m1, c1), (m2, c2) = moments(x), moments(y)
    # Not symmetric, so by complex eigenvalues: another way to the trace of the root.
    root = torch.linalg.eigvals(c1 @ c2).sqrt().real.sum()
    expected = (m1 - m2).square().sum() + c1.trace() + c2.trace() - 2 * root
    torch.testing.assert_close(frechet_distance(m1, c1, m2, c2), expected, rtol=1e-5, atol=1e-5)
    # The sum of singular values of A Bᵀ, formed at full size.
    a, b = ((z - z.mean(0)) / (len(z) - 1) ** 0.5 for z in (x, y))
    exact = (m1 - m2).square().sum() + a.square().sum() + b.square().sum()
    exact -= 2 * torch.linalg.matrix_norm(a @ b.T, "nuc")
    torch.testing.assert_close(frechet_distance(m1, c1, m2, c2), exact, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(frechet_distance_from_features(x, y), exact, rtol=1e-11, atol=1e-11)


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
    size = x.square().sum()
    assert frechet_distance_from_features(x, x.flip(0)) < 1e-13 * size
    assert 0 <= frechet_distance(*moments(x), *moments(x.flip(0))) < 1e-13 * size


def test_covariance_by_the_number_or_one_less():
    """Two points at ±a and two at ±b on one axis: variances 2a², 2b² by N - 1, half of that by N."""
    x, y = torch.tensor([[3.0], [-3.0]]), torch.tensor([[1.0], [-1.0]])
    assert frechet_distance_from_features(x, y).item() == pytest.approx((18**0.5 - 2**0.5) ** 2)
    assert frechet_distance_from_features(x, y, unbiased=False).item() == pytest.approx((3 - 1) ** 2)
    video = clips(50), clips(40, seed=1)
    for keep in (True, False):
        biased = FrechetVideoDistance(Projection(), unbiased=False, keep_features=keep)
        for kind, part in zip((True, False), video, strict=True):
            biased.update(part, real=kind)
        (m1, c1), (m2, c2) = (moments(biased.features(part).double()) for part in video)
        expected = frechet_distance(m1, c1 * 49 / 50, m2, c2 * 39 / 40)
        torch.testing.assert_close(biased.compute(), expected, rtol=1e-9, atol=0)


def test_preset_chooses_the_covariance():
    assert [FrechetVideoDistance(Identity(), preset=name).unbiased for name in PRESETS] == [
        PRESETS[name].unbiased for name in PRESETS
    ]
    assert FrechetVideoDistance(Identity(), preset="stylegan-v,resize=none,unbiased=true").unbiased
    assert not FrechetVideoDistance(Identity(), preset="videogpt", unbiased=False).unbiased


def test_bias_of_few_samples():
    """Against the second-order expansion of the distance around equal covariances, of many more samples than d."""
    values = torch.tensor([3.0, 2.0, 1.0, 0.5, 0.1], dtype=torch.float64)
    pairs = (values[:, None] * values / (values[:, None] + values)).sum()
    per_sample = values.sum() + 0.5 * (pairs + values.sum() / 2)  # of the means, of the covariances
    drawn = torch.stack([sampling_bias(values.diag(), 400, 800, seed=seed) for seed in range(300)])
    error = drawn.std() / 300**0.5
    assert abs(drawn.mean() - per_sample * (1 / 400 + 1 / 800)) < 4 * error
    assert error < 0.04 * drawn.mean()


def test_too_few_clips_for_the_features_are_reported_with_their_bias():
    for keep in (True, False):
        metric = FrechetVideoDistance(Identity(), keep_features=keep)
        metric.update(clips(40), real=True)
        metric.update(clips(30, seed=1), real=False)
        with pytest.warns(UserWarning, match=r"40 real and 30 generated clips for 360 .* roughly \d+") as printed:
            value = metric.compute()
        bias = float(str(printed[0].message).partition("roughly ")[2].split()[0])
        assert bias == pytest.approx(float(value), rel=0.25)  # both sets are of one distribution
        assert "\n" not in str(printed[0].message)


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


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("batch", [1, 7, 500])
def test_batches_change_nothing(batch, keep):
    metric = FrechetVideoDistance(Identity(), keep_features=keep)
    real, fake = clips(500).double(), clips(400, seed=1, shift=0.2).double()
    for kind, video in ((True, real), (False, fake)):
        for part in video.split(batch):
            metric.update(part, real=kind)
    # Batches are as if there were none: numpy's two-pass covariances, and a root by another way.
    (m1, c1), (m2, c2) = moments(real.flatten(1)), moments(fake.flatten(1))
    root = torch.linalg.eigvals(c1 @ c2).sqrt().real.sum()
    expected = (m1 - m2).square().sum() + c1.trace() + c2.trace() - 2 * root
    torch.testing.assert_close(metric.compute(), expected, rtol=1e-9, atol=0)


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
    with pytest.raises(InputError, match="not 20 and 0"):
        metric.compute()
    metric.update(clips(20, seed=1), real=False)
    torch.testing.assert_close(metric.compute(), first, rtol=0, atol=0)
    for _ in range(2):  # torchmetrics' own way to count a batch and to compute it at once
        torch.testing.assert_close(metric(clips(20, seed=1), real=False), first)
    assert metric.counts() == (20, 60)
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


def test_wrong_input_is_rejected():
    metric = FrechetVideoDistance(Projection())
    metric.update(clips(1), real=True)
    metric.update(clips(2), real=False)
    with pytest.raises(InputError, match="at least 2"):
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
    values = {}
    for counts in ((12, 19), (31, 0)):  # uneven, and one that sees nothing
        real, fake = (video.split(counts)[rank] for video in (clips(31).double(), clips(31, seed=1).double()))
        for keep in (True, False):
            metric = FrechetVideoDistance(Identity(), keep_features=keep)
            if len(real):
                metric.update(real, real=True)
                metric.update(fake, real=False)
            values[f"{counts} {keep}"] = metric.compute()
        metric = KernelVideoDistance(Identity())
        if len(real):
            metric.update(real, real=True)
            metric.update(fake, real=False)
        values[f"{counts} kernel"] = metric.compute()
        values[f"{counts} curve"], values[f"{counts} interval"] = metric.curve(), metric.interval(resamples=5)
        with metric.sync_context():
            assert metric.counts() == (31, 31)
        other = KernelVideoDistance(nn.AdaptiveAvgPool3d(1), num_features=3)
        other.feature = nn.Sequential(other.feature, nn.Flatten())
        for kind in (True, False):
            other.update(torch.rand(2, 3, 4, 6 + rank, 5), real=kind)
        try:
            other.compute()
            values[f"{counts} told"] = "nothing"
        except InputError as error:
            values[f"{counts} told"] = str(error)
        assert metric.counts() == (len(real), len(fake))  # this process's own again
    torch.save(values, f"{path}.{rank}")
    torch.distributed.destroy_process_group()


@pytest.mark.filterwarnings("ignore:.*generated clips for 360 features")
def test_two_processes_are_one(tmp_path):
    run_two(one_of_two, tmp_path / "meet")
    values = [torch.load(tmp_path / f"meet.{rank}", weights_only=True) for rank in range(2)]
    assert values[0] == values[1]
    frechet, kernel = FrechetVideoDistance(Identity(), keep_features=True), KernelVideoDistance(Identity())
    for metric in (frechet, kernel):
        metric.update(clips(31).double(), real=True)
        metric.update(clips(31, seed=1).double(), real=False)
    for counts in ((12, 19), (31, 0)):
        assert "(3, 4, 7, 5) after (3, 4, 6, 5)" in values[0][f"{counts} told"]  # each process saw one size
        for keep in (True, False):
            torch.testing.assert_close(values[0][f"{counts} {keep}"], frechet.compute(), rtol=1e-9, atol=0)
        torch.testing.assert_close(values[0][f"{counts} kernel"], kernel.compute(), rtol=1e-9, atol=0)
        assert values[0][f"{counts} curve"] == pytest.approx(kernel.curve(), rel=1e-9)
        assert values[0][f"{counts} interval"] == pytest.approx(kernel.interval(resamples=5), rel=1e-9)


def test_like_a_metric_of_torchmetrics(tmp_path):
    metric = FrechetVideoDistance(Projection())
    for kind in (True, False):
        metric.update(clips(20, seed=int(kind)).half(), real=kind)
    value = metric.compute()
    full = FrechetVideoDistance(Projection())
    for kind in (True, False):
        full.update(clips(20, seed=int(kind)).half().float(), real=kind)
    torch.testing.assert_close(value, full.compute())
    again = pickle.loads(pickle.dumps(metric))
    assert again.compute() == value
    again.update(clips(5, seed=9), real=False)
    assert again.compute() != value
    figure, _ = metric.plot([value, value / 2])
    figure.savefig(tmp_path / "values.png")
    assert metric.half().real_gram.dtype == torch.float64
    metric.update(clips(3).half(), real=False)  # the network is in half precision now


def test_features_are_shared():
    """Through torchmetrics' own wrapper, as its image metrics can."""
    network = Projection()
    calls, forward = [], network.forward
    network.forward = lambda video: calls.append(1) or forward(video)
    shared = FeatureShare([FrechetVideoDistance(network), KernelVideoDistance(network)])
    shared.update(clips(20), real=True)
    shared.update(clips(20, seed=1), real=False)
    values = shared.compute()
    assert len(calls) == 2
    expected = frechet_distance_from_features(*(network.eval()(clips(20, seed=k)).detach() for k in (0, 1)))
    assert values["FrechetVideoDistance"] == pytest.approx(float(expected), rel=1e-5)


def test_unequal_clips_are_rejected():
    metric = FrechetVideoDistance(nn.AdaptiveAvgPool3d(1), num_features=3)
    metric.feature = nn.Sequential(metric.feature, nn.Flatten())
    metric.update(torch.rand(2, 3, 4, 6, 5), real=True)
    for other in ((2, 3, 5, 6, 5), (2, 3, 4, 6, 6)):
        with pytest.raises(InputError, match="one number of frames and one size"):
            metric.update(torch.rand(*other), real=False)
    video = torch.rand(3, 3, 4, 6, 5)
    video[1, 0, 0, 0, 0] = torch.nan
    with pytest.raises(InputError, match="clip 1 of 3 holds NaN"):
        metric.update(video, real=False)
    with pytest.raises(InputError, match="real 'fake': give True"):
        metric.update(torch.rand(2, 3, 4, 6, 5), real="fake")
    with pytest.raises(InputError, match=r"features \(2, 4\): give finite ones, \(B, 3\)"):
        metric.update_features(torch.rand(2, 4), real=True)
    with pytest.raises(InputError, match="not finite"):
        frechet_distance_from_features(torch.full((3, 2), torch.nan), torch.rand(3, 2))
    with pytest.raises(InputError, match="feature 400: give a torch module"):
        FrechetVideoDistance(400)
