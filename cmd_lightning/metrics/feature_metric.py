"""FeatureMetric: what distances between real and generated clips share, a network whose features they compare."""

from __future__ import annotations

from typing import Any, Self

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from cmd_lightning.errors import InputError


def unit_range(video: Tensor) -> Tensor:
    """Clips `(B, C, T, H, W)`, uint8 or float in [0, 1], as float in [0, 1].

    Raises:
        InputError: Another shape, type or range.
    """
    if video.ndim != 5:
        raise InputError(f"video {tuple(video.shape)}: give (B, C, T, H, W)")
    if video.dtype == torch.uint8:
        return video.float() / 255
    if not video.is_floating_point():
        raise InputError(f"video of {video.dtype}: give uint8, or float in [0, 1]")
    if video.numel() and not (video.min() >= 0 and video.max() <= 1):
        raise InputError(f"video from {video.min():g} to {video.max():g}: give float in [0, 1], or uint8")
    return video


def check_features(x: Tensor, y: Tensor) -> None:
    """Refuse two sets of features whose distance has no meaning.

    Raises:
        InputError: They are not (N, d) and (M, d), or there are fewer than two samples in either.
    """
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or min(len(x), len(y)) < 2:
        shapes = f"{tuple(x.shape)}, {tuple(y.shape)}"
        raise InputError(f"features of shapes {shapes}: give (N, d) and (M, d), at least two of each")


class FeatureMetric(Metric):
    """A metric over the features of two sets of clips, real ones and generated ones.

    States whose names begin with "real_" are those of the real clips.

    Args:
        feature: Network from clips `(B, C, T, H, W)`, float in [0, 1], to features `(B, d)`. It is used as it is: in
            evaluation mode, without gradients.
        num_features: d; if None, the network's attribute `num_features`, else the width of what it makes of a black
            clip of 16 frames of 64x64.
        reset_real_features: Whether `reset` forgets the real clips too; False saves computing them each time.

    Raises:
        InputError: d is unknown and the network does not take such a black clip.
    """

    is_differentiable = False
    higher_is_better = False
    full_state_update = False

    def __init__(
        self,
        feature: nn.Module,
        num_features: int | None = None,
        reset_real_features: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.feature = feature.eval().requires_grad_(False)
        self.num_features = num_features or getattr(feature, "num_features", None) or self._measured()
        self.reset_real_features = reset_real_features

    @torch.no_grad()
    def _measured(self) -> int:
        weight = next(self.feature.parameters(), torch.empty(0))
        try:
            return self.feature(torch.zeros(1, 3, 16, 64, 64, device=weight.device)).shape[1]
        except (RuntimeError, ValueError) as error:
            problem = str(error).splitlines()[0]
            raise InputError(f"num_features None: give it, the feature network does not tell ({problem})") from error

    def train(self, mode: bool = True) -> Self:
        """Stays in evaluation mode, also as part of a module that trains."""
        return super().train(False)

    @torch.no_grad()
    def features(self, video: Tensor) -> Tensor:
        """Features of clips in double precision.

        Args:
            video: `(B, C, T, H, W)`, uint8 or float in [0, 1].

        Returns:
            `(B, d)`.

        Raises:
            InputError: The clips or the features have another shape, or are not finite.
        """
        features = self.feature(unit_range(video))
        if features.shape != (len(video), self.num_features):
            raise InputError(f"feature: gave {tuple(features.shape)}, not {(len(video), self.num_features)}")
        if not features.isfinite().all():
            raise InputError("feature: gave values that are not finite")
        return features.double()

    def reset(self) -> None:
        """Forget all clips; of the real ones only if `reset_real_features`."""
        kept = {}
        if not self.reset_real_features:
            names = [name for name in self._defaults if name.startswith("real_")]
            # A list is emptied in place by a reset.
            kept = {name: list(x) if isinstance(x := getattr(self, name), list) else x for name in names}
        super().reset()
        for name, value in kept.items():
            setattr(self, name, value)

    def check_counts(self, real: int, fake: int, least: int = 2) -> None:
        """Raise a RuntimeError unless there are enough clips of both kinds."""
        if min(real, fake) < least:
            name = type(self).__name__
            raise RuntimeError(f"{name} needs at least {least} real and {least} generated clips, not {real} and {fake}")
