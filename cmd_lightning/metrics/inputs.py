"""What metrics take, and what they reject."""

from __future__ import annotations

import torch
from torch import Tensor

from cmd_lightning.errors import InputError


def unit_range(video: Tensor) -> Tensor:
    """Clips `(B, C, T, H, W)`, uint8 or float in [0, 1], as float in [0, 1], of single precision at least."""
    if not isinstance(video, Tensor):
        raise InputError(f"video {type(video).__name__}: give a tensor (B, C, T, H, W)")
    if video.ndim != 5:
        raise InputError(f"video {tuple(video.shape)}: give (B, C, T, H, W)")
    if video.dtype == torch.uint8:
        return video.float() / 255
    if not video.is_floating_point():
        raise InputError(f"video of {video.dtype}: give uint8, or float in [0, 1]")
    if video.numel() and not (video.min() >= 0 and video.max() <= 1):
        if video.isnan().any():
            clip = int(video.isnan().flatten(1).any(1).int().argmax())
            raise InputError(f"video: clip {clip} of {len(video)} holds NaN; leave it out or repair what made it")
        raise InputError(f"video from {video.min():g} to {video.max():g}: give float in [0, 1], or uint8")
    return video if video.dtype == torch.float64 else video.float()


def check_rgb(video: Tensor) -> None:
    """Reject clips `(B, C, T, H, W)` that are not red, green and blue."""
    if video.shape[1] != 3:
        remedies = {1: "repeat grey with video.expand(-1, 3, -1, -1, -1)", 4: "drop alpha with video[:, :3]"}
        remedy = remedies.get(video.shape[1], "give (B, 3, T, H, W)")
        raise InputError(f"video {tuple(video.shape)}: {video.shape[1]} channels where RGB is needed; {remedy}")


def check_features(x: Tensor, y: Tensor) -> None:
    """Reject two sets of features whose distance has no meaning."""
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or min(len(x), len(y)) < 2:
        shapes = f"{tuple(x.shape)}, {tuple(y.shape)}"
        raise InputError(f"features of shapes {shapes}: give (N, d) and (M, d), at least two of each")
    if not (x.isfinite().all() and y.isfinite().all()):
        raise InputError("features: some are not finite; leave those clips out or repair what made them")
