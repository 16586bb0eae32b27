"""Augmentations of clips in training; the proof uses their blur and codec."""

import torch
from torch import Tensor
from torch.nn import functional as F

from cmd_lightning.video_encoding import mp4_bytes
from cmd_lightning.video_io import read_video

FRAMES = 16  # of every clip of the yardstick


def blur(video: Tensor, sigma: Tensor) -> Tensor:
    """Gaussian blur over space; `sigma` (B,) in pixels, 0 leaves a clip as it is."""
    place = torch.arange(video.shape[-1], dtype=torch.float32)
    apart = (place[:, None] - place).square()
    rows = torch.exp(-apart / (2 * sigma.clamp(min=1e-3).square())[:, None, None])
    rows = (rows / rows.sum(dim=2, keepdim=True))[:, None, None]
    return rows @ video @ rows.transpose(-1, -2)


def compressed(clip: Tensor, crf: int) -> Tensor:
    """A clip uint8 (3, T, H, W) through H.264."""
    return read_video(mp4_bytes(clip, 8.0, crf=crf))


def spoil_mildly(video: Tensor, chance: torch.Generator) -> Tensor:
    """What codecs and autoencoders do to clips, to the first half of a batch: none of it changes what a clip shows.

    Soft edges, coarse chroma, noise, shifted colours and contrast, a share of the mean over time.
    """
    clean, video = video[len(video) // 2 :], video[: len(video) // 2]

    def some(low: float, high: float, share: float) -> Tensor:
        """Of each clip a strength, or 0."""
        drawn, values = torch.rand(2, len(video), generator=chance)
        return torch.where(drawn < share, low + (high - low) * values, torch.zeros(()))

    def over_clips(values: Tensor) -> Tensor:
        return values.view(-1, 1, 1, 1, 1)

    video = blur(video, some(0.2, 0.8, 0.5))
    grey = video.mean(dim=1, keepdim=True)
    chroma = F.interpolate(F.avg_pool3d(video - grey, (1, 2, 2)), scale_factor=(1, 2, 2))
    video = torch.lerp(video, grey + chroma, over_clips(some(0.5, 1.0, 0.4)))
    video = torch.lerp(video, video.mean(dim=2, keepdim=True), over_clips(some(0.0, 0.15, 0.3)))
    tint = 1 + 0.04 * (2 * torch.rand(len(video), 3, 1, 1, 1, generator=chance) - 1)
    contrast = 1 + over_clips(some(-0.15, 0.1, 0.4))
    noise = torch.randn(video.shape, generator=chance) * over_clips(some(0.0, 0.05, 0.5))
    return torch.cat([(video * tint * contrast + noise).clamp(0, 1), clean])


def shuffled(frames: int, chance: torch.Generator) -> Tensor:
    """A random order of frames that is far from the true one and its reverse: Kendall's tau within 0.35."""
    first, second = torch.triu_indices(frames, frames, 1)
    while True:
        order = torch.randperm(frames, generator=chance)
        if (order[second] - order[first]).sign().float().mean().abs() < 0.35:
            return order
