"""PerFrame: metrics of images, over the frames of clips."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.wrappers.abstract import WrapperMetric

from cmd_lightning.errors import InputError
from cmd_lightning.metrics.inputs import unit_range


class PerFrame(WrapperMetric):
    """Lift a torchmetrics metric of two sets of images to clips: every frame counts as an image.

    How frames are averaged is the metric's affair. PSNR without `dim` takes the logarithm of the squared error over all
    clips; with `dim=(1, 2, 3)` it is the mean of the frames' PSNR, which is the higher of the two, and infinite once a
    single frame is perfect. A result needs to tell which.

    Args:
        metric: Takes `(prediction, target)`, both `(N, C, H, W)` float in [0, 1]; so LPIPS wants `normalize=True`.

    Raises:
        InputError: Not a metric, or one that expects another range of values.

    Examples:
        Others are `StructuralSimilarityIndexMeasure(data_range=1.0)` and
        `LearnedPerceptualImagePatchSimilarity("alex", normalize=True)`.

        >>> import torch
        >>> from torchmetrics.image import PeakSignalNoiseRatio
        >>> from cmd_lightning.metrics import PerFrame
        >>> psnr = PerFrame(PeakSignalNoiseRatio(data_range=1.0, dim=(1, 2, 3)))
        >>> psnr.update(torch.full((2, 3, 4, 8, 8), 0.9), torch.ones(2, 3, 4, 8, 8))
        >>> round(psnr.compute().item(), 3)
        20.0
    """

    def __init__(self, metric: Metric, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not isinstance(metric, Metric):
            raise InputError(f"metric {metric!r:.60}: give a torchmetrics metric of images, made already")
        if getattr(metric, "normalize", True) is False:  # it would take [0, 1] for another range without a word
            raise InputError(
                f"metric {type(metric).__name__}(normalize=False): frames are in [0, 1], so normalize=True"
            )
        data_range = getattr(metric, "data_range", None)
        if data_range is not None and tuple(torch.as_tensor(data_range).flatten().tolist()) not in ((1.0,), (0.0, 1.0)):
            raise InputError(f"metric {type(metric).__name__}: frames are in [0, 1], so data_range=1.0")
        self.metric = metric

    @property
    def higher_is_better(self) -> bool | None:  # type: ignore[override]  # torchmetrics has a plain attribute
        """As of the metric of images."""
        return self.metric.higher_is_better

    @property
    def is_differentiable(self) -> bool | None:  # type: ignore[override]  # torchmetrics has a plain attribute
        """As of the metric of images."""
        return self.metric.is_differentiable

    def update(self, prediction: Tensor, video: Tensor) -> None:
        """Take in clips.

        Args:
            prediction: Like `video`, of the same shape.
            video: `(B, C, T, H, W)`, uint8 or float in [0, 1].

        Raises:
            InputError: The shapes differ, or a shape or range is wrong.
        """
        self.metric.update(*_frames(prediction, video))

    def forward(self, prediction: Tensor, video: Tensor) -> Any:
        """Take in clips, arguments as of `update`; the value of these alone."""
        self._forward_cache = self.metric(*_frames(prediction, video))  # where Lightning looks for the value of a step
        return self._forward_cache

    def compute(self) -> Any:
        """The value over all clips so far."""
        return self.metric.compute()

    def reset(self) -> None:
        """Forget all clips."""
        self.metric.reset()
        super().reset()

    def plot(self, val: Any = None, ax: Any = None) -> Any:
        """Plots one value or several with matplotlib, as the metric of images does: figure and axes."""
        return self.metric.plot(val, ax)


def _frames(prediction: Tensor, video: Tensor) -> tuple[Tensor, Tensor]:
    if prediction.shape != video.shape:
        raise InputError(
            f"prediction {tuple(prediction.shape)}, video {tuple(video.shape)}: give both as (B, C, T, H, W) of one "
            "shape"
        )
    frames, targets = (unit_range(x).transpose(1, 2).flatten(0, 1) for x in (prediction, video))
    return frames, targets
