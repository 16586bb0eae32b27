import numpy as np
import pytest
import torch

from cmd_lightning.metrics.reconstruction import best_frame, mean_frame, psnr, ssim


def clips(count=3, frames=5, height=16, width=20):
    video = torch.rand(count, 3, frames, height, width) * 2 - 1
    noise = torch.tensor([0.01, 0.2, 0.9])[:count].view(-1, 1, 1, 1, 1)
    return (video + noise * torch.randn_like(video)).clamp(-1, 1), video


def psnr_by_hand(prediction, video):
    """Of images in [0, 255]: the same, since the logarithm of a ratio has no unit."""
    a, b = ((x.double().numpy() + 1) * 127.5 for x in (prediction, video))
    return [10 * np.log10(255**2 / ((p - v) ** 2).mean()) for p, v in zip(a, b, strict=True)]


def test_psnr_is_the_formula_for_each_clip():
    prediction, video = clips()
    np.testing.assert_allclose(psnr(prediction, video), psnr_by_hand(prediction, video), rtol=1e-4)


def test_psnr_takes_one_frame_for_all_and_clips_predictions():
    _, video = clips()
    still = video[:, :, :1]
    np.testing.assert_allclose(psnr(still, video), psnr_by_hand(still.expand_as(video), video), rtol=1e-4)
    over = torch.where(video > 0.5, 7.0, video)
    np.testing.assert_allclose(psnr(over, video), psnr_by_hand(over.clamp(-1, 1), video), rtol=1e-4)


def test_psnr_of_a_perfect_clip_is_finite_and_does_not_spoil_the_others():
    prediction, video = clips()
    expected = psnr(prediction, video)
    prediction[1] = video[1]
    values = psnr(prediction, video)
    assert values[1] == pytest.approx(10 * np.log10(4 / 1e-10), abs=1e-3)
    torch.testing.assert_close(values[[0, 2]], expected[[0, 2]])


def ssim_by_hand(a, b):
    """Wang et al. 2004 on images in [0, 1]: an 11 x 11 Gaussian window of sigma 1.5 around each pixel, mirrored."""
    a, b = (np.pad((x.double().numpy() + 1) / 2, ((0, 0), (5, 5), (5, 5)), "reflect") for x in (a, b))
    g = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
    window = np.outer(g, g) / np.outer(g, g).sum()
    values = []
    for channel in range(a.shape[0]):
        for y in range(a.shape[1] - 10):
            for x in range(a.shape[2] - 10):
                p, q = a[channel, y : y + 11, x : x + 11], b[channel, y : y + 11, x : x + 11]
                mp, mq = (window * p).sum(), (window * q).sum()
                vp, vq = (window * (p - mp) ** 2).sum(), (window * (q - mq) ** 2).sum()
                vpq = (window * (p - mp) * (q - mq)).sum()
                numerator = (2 * mp * mq + 0.01**2) * (2 * vpq + 0.03**2)
                values.append(numerator / ((mp**2 + mq**2 + 0.01**2) * (vp + vq + 0.03**2)))
    return np.mean(values)


def test_ssim_is_that_of_images_from_zero_averaged_over_frames():
    prediction, video = clips(frames=3, height=12, width=14)
    expected = [np.mean([ssim_by_hand(prediction[i, :, t], video[i, :, t]) for t in range(3)]) for i in range(3)]
    np.testing.assert_allclose(ssim(prediction, video), expected, rtol=1e-3)
    still = ssim(video[:, :, 1:2], video)
    expected = [np.mean([ssim_by_hand(video[i, :, 1], video[i, :, t]) for t in range(3)]) for i in range(3)]
    np.testing.assert_allclose(still, expected, rtol=1e-3)


def test_best_frame_is_the_best_of_all():
    video = torch.randn(6, 3, 7, 4, 6)
    chosen = best_frame(video)
    assert chosen.shape == (6, 3, 1, 4, 6)
    for clip, frame in zip(video, chosen, strict=True):
        errors = [((clip - clip[:, t : t + 1]) ** 2).sum().item() for t in range(7)]
        assert torch.equal(frame[:, 0], clip[:, int(np.argmin(errors))])


def test_mean_frame_is_better_than_any_frame():
    video = torch.randn(2, 3, 5, 4, 6)
    np.testing.assert_allclose(mean_frame(video)[:, :, 0], video.numpy().mean(2), atol=1e-6)
    assert (psnr(mean_frame(video / 4), video / 4) > psnr(best_frame(video / 4), video / 4)).all()


def test_one_frame():
    video = torch.rand(1, 3, 1, 16, 16)
    assert torch.equal(best_frame(video), video)
    assert psnr(best_frame(video), video)[0] > 100
