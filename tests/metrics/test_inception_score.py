import matplotlib
import numpy as np
import pytest
import torch
from torch import nn
from torchmetrics.image.inception import InceptionScore
from two_processes import run_two

from cmd_lightning.errors import InputError
from cmd_lightning.metrics.inception_score import VideoInceptionScore, inception_score

matplotlib.use("Agg")


class Classifier(nn.Module):
    """Eleven classes by random directions of the pixels."""

    num_features = 11

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3 * 4 * 6 * 5, 11, generator=torch.Generator().manual_seed(3)))

    def forward(self, video):
        return (video.to(self.weight) - 0.5).flatten(1) @ self.weight / 4


def clips(count):
    return torch.rand(count, 3, 4, 6, 5, generator=torch.Generator().manual_seed(1))


def by_numpy(logits, splits):
    """Probabilities shuffled in place and cut, as the published tools do it."""
    odds = np.exp(logits - logits.max(1, keepdims=True))
    odds = odds / odds.sum(1, keepdims=True)
    np.random.RandomState(42).shuffle(odds)
    scores = []
    for i in range(splits):
        part = odds[i * len(odds) // splits : (i + 1) * len(odds) // splits]
        divergence = part * (np.log(part) - np.log(part.mean(0, keepdims=True)))
        scores.append(np.exp(divergence.sum(1).mean()))
    return np.mean(scores), np.std(scores)


@pytest.mark.filterwarnings("ignore:Metric `InceptionScore` will save")
@pytest.mark.filterwarnings("ignore:std()")
def test_one_part_is_torchmetrics_score():
    ours = VideoInceptionScore(Classifier(), splits=1)
    theirs = InceptionScore(Classifier().eval(), splits=1)
    for part in clips(40).split(17):
        ours.update(part)
        theirs.update(part)
    mean, deviation = ours.compute()
    assert mean > 1.2
    torch.testing.assert_close(mean, theirs.compute()[0].double(), rtol=1e-5, atol=0)
    assert deviation == 0


@pytest.mark.parametrize("splits", [2, 7, 10])
def test_several_parts(splits):
    logits = torch.randn(43, 11, dtype=torch.float64) * 2
    mean, deviation = inception_score(logits, splits)
    expected = by_numpy(logits.numpy(), splits)
    np.testing.assert_allclose((mean, deviation), expected, rtol=1e-12)
    metric = VideoInceptionScore(Classifier(), splits=splits)
    metric.update_features(logits[:20])
    np.testing.assert_allclose(metric.compute(), by_numpy(logits[:20].numpy(), splits), rtol=1e-12)
    metric.update_features(logits[20:])
    np.testing.assert_allclose(metric.compute(), expected, rtol=1e-12)
    low = inception_score(logits.float(), splits)
    np.testing.assert_allclose(low, by_numpy(logits.float().double().numpy(), splits), rtol=1e-12)


def test_bounds_are_reached_without_overflow():
    sure = torch.eye(8).repeat(5, 1) * 1e4
    assert inception_score(sure, 1)[0].item() == pytest.approx(8, rel=1e-12)
    assert inception_score(sure[:1].repeat(9, 1), 3)[0].item() == pytest.approx(1, rel=1e-12)


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_wrong_input_is_rejected():
    metric = VideoInceptionScore(Classifier())
    metric.update(clips(9))
    with pytest.raises(InputError, match=r"^is: 9 clips for 10 splits; give at least 10 clips, or splits=1$"):
        metric.compute()
    with pytest.raises(InputError, match="is: 0 clips"):
        VideoInceptionScore(Classifier()).compute()
    with pytest.raises(InputError, match="splits 0"):
        VideoInceptionScore(Classifier(), splits=0)
    with pytest.raises(InputError, match="splits -1"):
        inception_score(torch.zeros(5, 2), splits=-1)
    with pytest.raises(InputError, match="N, K"):
        inception_score(torch.zeros(5))


def test_plot_shows_the_mean():
    metric = VideoInceptionScore(Classifier(), splits=2)
    values = [metric(clips(8)), metric(clips(12))]
    _, axes = metric.plot(values)
    np.testing.assert_allclose(axes.lines[0].get_ydata(), [mean for mean, _ in values])
    mean, _ = metric.compute()
    for value in (None, metric.compute()):
        assert metric.plot(value)[1].lines[0].get_ydata()[0] == pytest.approx(mean.item())
    assert metric.higher_is_better
    matplotlib.pyplot.close("all")


def test_to_compute_changes_nothing():
    metric = VideoInceptionScore(Classifier(), splits=2)
    metric.update(clips(8))
    first = metric.compute()
    metric.update_features(metric.features(clips(8)))
    assert metric.update_count == 2
    metric.reset()
    metric.update(clips(8))
    for _ in range(2):
        metric._computed = None  # the value it keeps
        assert metric.compute() == first
    assert (metric.update_count, len(metric.logits)) == (1, 1)


def one_of_two(rank, path):
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"file://{path}", rank=rank, world_size=2)
    metric = VideoInceptionScore(Classifier(), splits=4)
    for part in clips(31).split((12, 19))[rank].split(5):
        metric.update(part)
    lone = VideoInceptionScore(Classifier(), splits=4)  # one process has seen nothing
    if rank == 1:
        lone.update(clips(31))
    values = metric.compute(), lone.compute()
    lone._computed = None
    assert lone.compute() == values[1] and len(lone.logits) == 1 and lone.update_count == rank
    metric.sync()  # which leaves tensors for lists
    values += (metric.compute(),)
    metric.unsync()
    if rank == 0:
        torch.save(values, f"{path}.values")
    torch.distributed.destroy_process_group()


def test_two_processes_are_one(tmp_path):
    run_two(one_of_two, tmp_path / "meet")
    metric = VideoInceptionScore(Classifier(), splits=4)
    metric.update(clips(31))
    for value in torch.load(tmp_path / "meet.values", weights_only=True):
        torch.testing.assert_close(value, metric.compute(), rtol=1e-6, atol=1e-6)
