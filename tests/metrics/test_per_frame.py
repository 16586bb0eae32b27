import pickle
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
import torchvision
from torchmetrics.image import (
    LearnedPerceptualImagePatchSimilarity,
    PeakSignalNoiseRatio,
    StructuralSimilarityIndexMeasure,
)

from cmd_lightning.errors import InputError
from cmd_lightning.metrics.per_frame import PerFrame
from cmd_lightning.video_io import read_video

matplotlib.use("Agg")

BACKBONE = Path(torch.hub.get_dir()) / "checkpoints" / "alexnet-owt-7be5be79.pth"


def extremes():
    return torch.zeros(8, 3, 10, 64, 64), torch.ones(8, 3, 10, 64, 64)


def test_published_values_of_black_against_white():
    psnr, ssim = (
        PerFrame(metric(data_range=1.0)) for metric in (PeakSignalNoiseRatio, StructuralSimilarityIndexMeasure)
    )
    assert psnr(*extremes()) == 0
    assert ssim(*extremes()).item() == pytest.approx(9.999e-5, rel=1e-4)


@pytest.mark.skipif(not BACKBONE.is_file(), reason="no weights of AlexNet in torch.hub's cache")
def test_published_lpips_of_black_against_white():
    lpips = PerFrame(LearnedPerceptualImagePatchSimilarity("alex", normalize=True))
    assert lpips(*extremes()).item() == pytest.approx(0.8140, abs=1e-4)


def test_psnr_of_a_compressed_clip(assets):
    pair = [
        read_video(assets / "videos/misc" / f"carphone_{kind}.mp4")[None, :, :16] for kind in ("pristine", "distorted")
    ]
    assert pair[0].dtype == torch.uint8
    clean, compressed = (clip[0].numpy().astype(np.float64) / 255 for clip in pair)
    frames = -10 * np.log10(((clean - compressed) ** 2).mean((0, 2, 3)))
    assert len(frames) == 16
    assert frames.max() < 40
    each = PerFrame(PeakSignalNoiseRatio(data_range=1.0, dim=(1, 2, 3)))
    together = PerFrame(PeakSignalNoiseRatio(data_range=1.0))
    for frame in (slice(0, 6), slice(6, 16)):
        part = [clip[:, :, frame] for clip in pair]
        each.update(*part)
        together.update(*part)
    assert each.compute().item() == pytest.approx(frames.mean(), abs=1e-4)
    total = -10 * np.log10(((clean - compressed) ** 2).mean())
    assert together.compute().item() == pytest.approx(total, abs=1e-4)
    assert total < frames.mean()


@pytest.fixture
def lpips(monkeypatch):
    """LPIPS over an AlexNet with random weights: its own are a download."""
    make = torchvision.models.alexnet
    monkeypatch.setattr(torchvision.models, "alexnet", lambda weights=None: make(weights=None))
    return LearnedPerceptualImagePatchSimilarity("alex", normalize=True)


def test_lpips_is_the_mean_over_frames(lpips):
    prediction, video = torch.rand(2, 2, 3, 3, 64, 48)
    metric = PerFrame(lpips)
    metric.update(prediction[:1], video[:1])
    metric.update(prediction[1:], video[1:])
    single = [
        lpips.net(prediction[i : i + 1, :, t], video[i : i + 1, :, t], normalize=True).item()
        for i in range(2)
        for t in range(3)
    ]
    assert np.std(single) > 0
    assert metric.compute().item() == pytest.approx(np.mean(single), rel=1e-5)
    assert metric.higher_is_better is False
    assert metric.is_differentiable


def test_it_is_a_metric():
    prediction, video = torch.rand(2, 3, 3, 4, 8, 6)
    metric = PerFrame(PeakSignalNoiseRatio(data_range=1.0))
    first, second = metric(prediction[:1], video[:1]), metric(prediction=prediction[1:], video=video[1:])
    assert first != second
    both = metric.compute()
    assert both.item() == pytest.approx(-10 * (prediction - video).square().mean().log10().item(), abs=1e-4)
    assert pickle.loads(pickle.dumps(metric)).compute() == both
    assert metric.higher_is_better
    assert metric.plot()[1].lines[0].get_ydata()[0] == pytest.approx(both.item())
    matplotlib.pyplot.close("all")
    metric.reset()
    metric.update(prediction[:1], video[:1])
    assert metric.compute() == first


def test_wrong_input_is_rejected(lpips):
    metric = PerFrame(PeakSignalNoiseRatio(data_range=1.0))
    with pytest.raises(InputError, match=r"prediction \(1, 3, 4, 8, 8\), video \(1, 3, 5, 8, 8\)"):
        metric.update(torch.rand(1, 3, 4, 8, 8), torch.rand(1, 3, 5, 8, 8))
    with pytest.raises(InputError, match=r"0, 1"):
        metric.update(torch.rand(1, 3, 4, 8, 8), torch.rand(1, 3, 4, 8, 8) - 0.5)
    with pytest.raises(InputError, match="B, C, T, H, W"):
        metric.update(torch.rand(3, 8, 8), torch.rand(3, 8, 8))
    with pytest.raises(InputError, match="made already"):
        PerFrame(PeakSignalNoiseRatio)
    lpips.normalize = False
    with pytest.raises(InputError, match="normalize=True"):
        PerFrame(lpips)


def test_processes_are_gathered_by_the_metric_of_images():
    """Of a second process, which has seen a single value with a squared error of one."""
    inner = PeakSignalNoiseRatio(
        data_range=1.0, distributed_available_fn=lambda: True, dist_sync_fn=lambda x, group: [x, torch.ones_like(x)]
    )
    metric = PerFrame(inner)
    prediction, video = torch.rand(2, 1, 3, 2, 4, 4)
    metric.update(prediction, video)
    error = ((prediction - video).square().sum() + 1) / (video.numel() + 1)
    assert metric.compute().item() == pytest.approx(-10 * error.log10().item(), abs=1e-4)
