"""How natural content frames are: each measure against its formula, and halftones against their frames."""

import math

import numpy as np
import pytest
import torch

from cmd_lightning.errors import InputError
from cmd_lightning.metrics import ContentNaturalness
from cmd_lightning.metrics.content_naturalness import MEASURES, REAL


def measured(content, real, **options):
    metric = ContentNaturalness(**options)
    metric.update(content, real=False)
    metric.update(real, real=True)
    return {name: value.item() for name, value in metric.compute().items()}


def waves(frequency, count=4, size=32):
    """Images `(count, 1, size, size)` of a wave along x with `frequency` cycles per pixel, each with another phase."""
    x = torch.arange(size).expand(size, -1)
    phases = torch.arange(count).view(-1, 1, 1) / count
    return 0.5 + 0.25 * torch.cos(2 * math.pi * (frequency * x + phases))[:, None]


def discs(count=24, size=32):
    """Two frames each of a white disc that moves, `(count, 2, 1, size, size)`."""
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    centres = size * (0.25 + 0.5 * torch.rand(count, 1, 2))
    centres = torch.cat([centres, centres + 5], dim=1)
    distance = ((x - centres[..., 0, None, None]) ** 2 + (y - centres[..., 1, None, None]) ** 2).sqrt()
    return (8.5 - distance).clamp(0, 1)[:, :, None]


@pytest.mark.parametrize(("frequency", "share"), [(1 / 16, 0.0), (7 / 32, 0.0), (9 / 32, 1.0), (7 / 16, 1.0)])
def test_high_frequency_is_the_share_above_half_the_nyquist_frequency(frequency, share):
    value = measured(waves(frequency), waves(1 / 16))["high_frequency"]
    assert value == pytest.approx(share, abs=1e-6)


def test_white_noise_has_the_share_of_the_frequencies():
    values = measured(torch.rand(16, 3, 64, 64), torch.rand(4, 3, 64, 64))
    assert values["high_frequency"] == pytest.approx(1 - math.pi / 16, abs=0.02)
    assert values["local_correlation"] == pytest.approx(0, abs=0.02)
    assert values["total_variation"] == pytest.approx(1 / 3, abs=0.01)  # of two uniform values


def test_correlation_and_variation_are_numpys():
    images = torch.rand(3, 2, 10, 12).cumsum(dim=3) / 12
    values = measured(images, images)
    x = images.double().numpy()
    centred = x - x.mean(axis=(2, 3), keepdims=True)
    pairs = [(centred[..., 1:], centred[..., :-1]), (centred[..., 1:, :], centred[..., :-1, :])]
    covariance = sum((a * b).sum() for a, b in pairs)
    variance = sum(((a**2).sum() + (b**2).sum()) / 2 for a, b in pairs)
    assert values["local_correlation"] == pytest.approx(covariance / variance, rel=1e-5)
    steps = np.concatenate([np.abs(a - b).ravel() for a, b in pairs])
    assert values["total_variation"] == pytest.approx(steps.mean(), rel=1e-5)


def test_denoising_error_is_that_of_the_wiener_filter():
    """Against noise that is really drawn, on patches that are cut out one by one."""
    real, content = torch.rand(40, 1, 8, 8).cumsum(dim=3) / 8, torch.rand(40, 1, 8, 8)
    value = measured(content, real, noise=0.2)
    x, y = (images.flatten(1).double() for images in (real, content))
    covariance = torch.cov(x.T, correction=0)
    denoiser = covariance @ torch.linalg.inv(covariance + 0.04 * torch.eye(64))
    for images, name in ((y, "denoising_error"), (x, "denoising_error" + REAL)):
        noisy = images + 0.2 * torch.randn(2000, *images.shape, dtype=torch.float64)
        repaired = x.mean(0) + (noisy - x.mean(0)) @ denoiser.T
        assert value[name] == pytest.approx((repaired - images).square().mean().item() / 0.04, rel=0.01)
    assert value["denoising_error"] > 1.5 * value["denoising_error" + REAL]


def test_a_halftone_is_less_natural_than_its_frames():
    frames = discs()
    checks = (torch.arange(32)[:, None] + torch.arange(32)) % 2
    halftone = torch.where(checks.bool(), frames[:, 0], frames[:, 1])
    other = discs().flatten(0, 1)
    whole, mixed = measured(frames[:, 0], other), measured(halftone, other)
    for name in MEASURES:
        assert whole[name] == pytest.approx(whole[name + REAL], rel=0.15, abs=0.01)
    assert mixed["high_frequency"] > 3 * whole["high_frequency"]
    assert mixed["local_correlation"] < whole["local_correlation"] - 0.1
    assert mixed["total_variation"] > 2 * whole["total_variation"]
    assert mixed["denoising_error"] > 1.5 * whole["denoising_error"]


def test_batches_add_up_and_bytes_are_read():
    images = torch.randint(0, 256, (6, 3, 16, 16), dtype=torch.uint8)
    metric = ContentNaturalness()
    for part in images.split(2):
        metric.update(part, real=False)
        metric.update(part.float() / 255, real=True)
    values = metric.compute()
    for name in MEASURES:
        torch.testing.assert_close(values[name], values[name + REAL])
    assert measured(images, images)["high_frequency"] == pytest.approx(values["high_frequency"].item())
    metric.reset()
    with pytest.raises(InputError, match="no content frames yet"):
        metric.compute()


def test_flat_images_have_values():
    values = measured(torch.full((2, 3, 8, 8), 0.5), torch.full((2, 3, 8, 8), 0.5))
    assert all(math.isfinite(value) for value in values.values())


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.rand(3, 8, 8), r"images \(3, 8, 8\): give \(N, C, H, W\)"),
        (torch.rand(1, 3, 7, 9), "at least 8"),
        (2 * torch.ones(1, 3, 8, 8), "give float in"),
    ],
)
def test_what_it_refuses(images, message):
    with pytest.raises(InputError, match=message):
        ContentNaturalness().update(images, real=True)
    with pytest.raises(InputError, match="noise 0"):
        ContentNaturalness(noise=0)
