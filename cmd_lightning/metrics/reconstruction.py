"""How well a clip is reconstructed, compared with a still image: the floor that an autoencoder must beat."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

RANGE = 2.0  # width of the value range [-1, 1] of a video
SCORES = ("psnr", "ssim", "psnr_of_mean_frame", "psnr_of_best_frame")


def psnr(prediction: Tensor, video: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each clip over all its frames, `(B,)` in dB.

    Videos are `(B, C, T, H, W)` in [-1, 1]; a prediction with a single frame stands for all frames.
    """
    prediction = prediction.float().clamp(-1, 1).expand_as(video).contiguous()
    # A floor of 1e-10 on the squared error keeps a perfect clip finite, at 106 dB.
    exact = (prediction - video.float()).square().flatten(1).mean(1) < 1e-10
    value = peak_signal_noise_ratio(prediction, video.float(), data_range=RANGE, dim=(1, 2, 3, 4), reduction="none")
    return torch.where(exact, torch.full_like(value, 106.0206), value)


def ssim(prediction: Tensor, video: Tensor) -> Tensor:
    """Structural similarity, averaged over the frames of each clip, `(B,)`; arguments as for `psnr`."""
    prediction = prediction.float().clamp(-1, 1).expand_as(video)
    # Unlike PSNR it is not the same for shifted values: its luminance term wants them to start at 0.
    frames, targets = ((x.float().transpose(1, 2).flatten(0, 1) + 1) / RANGE for x in (prediction, video))
    value = structural_similarity_index_measure(frames, targets, data_range=1.0, reduction="none")
    return value.view(len(video), -1).mean(1)  # type: ignore[union-attr]  # a tuple only with return_full_image


def scores(reconstruction: Tensor, video: Tensor) -> dict[str, Tensor]:
    """PSNR and SSIM of each clip's reconstruction, and what still images would reach; `(B,)` each, by name."""
    return {
        "psnr": psnr(reconstruction, video),
        "ssim": ssim(reconstruction, video),
        "psnr_of_mean_frame": psnr(mean_frame(video), video),
        "psnr_of_best_frame": psnr(best_frame(video), video),
    }


def mean_frame(video: Tensor) -> Tensor:
    """The mean over time, `(B, C, 1, H, W)`: the best still image in the sense of least squares."""
    return video.mean(2, keepdim=True)


def best_frame(video: Tensor) -> Tensor:
    """The frame of each clip that, repeated, is closest to it in the sense of least squares, `(B, C, 1, H, W)`."""
    # |x_t - x_s|² summed over t and pixels is smallest for the frame that is closest to the mean.
    distance = (video - mean_frame(video)).square().sum(dim=(1, 3, 4))
    choice = distance.argmin(dim=1).view(-1, 1, 1, 1, 1)
    return video.gather(2, choice.expand(-1, video.shape[1], 1, *video.shape[3:]))
