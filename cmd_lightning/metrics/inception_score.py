"""Inception Score: whether a classifier is sure about each clip, and unsure about them all together."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cmd_lightning import compat
from cmd_lightning.errors import InputError
from cmd_lightning.metrics.feature_metric import FeatureMetric
from cmd_lightning.metrics.preparation import Preparation


def inception_score(logits: Tensor, splits: int = 10, seed: int = 42) -> tuple[Tensor, Tensor]:
    """Exponential of the mean divergence of each sample's classes from those of all samples (arXiv 1606.03498).

    The samples are shuffled as numpy's `RandomState(seed)` does, and cut into parts as even as possible; each part has
    its own score. The deviation is the one of the parts themselves (ddof 0), as in the original, in StyleGAN-V and in
    torch-fidelity; torchmetrics estimates it with ddof 1, and cuts into parts of one size but the last.

    Args:
        logits: `(N, K)`, before the softmax, N >= splits.
        splits: Number of parts. The score grows with the number of samples in a part.
        seed: Of the shuffling; 42 in StyleGAN-V.

    Returns:
        Mean and standard deviation over the parts, two scalars in double precision. The mean is in [1, K].

    Raises:
        InputError: Another shape, or fewer samples than parts.
    """
    if logits.ndim != 2:
        raise InputError(f"logits {tuple(logits.shape)}: give (N, K)")
    if splits < 1:
        raise InputError(f"splits {splits}: give at least 1")
    if len(logits) < splits:
        raise InputError(f"is: {len(logits)} clips for {splits} splits; give at least {splits} clips, or splits=1")
    order = np.random.RandomState(seed).permutation(len(logits))
    logs = logits.double()[torch.from_numpy(order).to(logits.device)].log_softmax(1)
    edges = [part * len(logs) // splits for part in range(splits + 1)]
    scores = []
    for part in (logs[first:last] for first, last in pairwise(edges)):
        marginal = part.logsumexp(0) - np.log(len(part))
        scores.append((part.exp() * (part - marginal)).sum(1).mean().exp())
    values = torch.stack(scores)
    return values.mean(), values.std(correction=0)


class VideoInceptionScore(FeatureMetric):
    """Inception Score of generated clips: mean and standard deviation over parts; higher is better.

    The published video IS takes the 101 logits of a C3D that was fine-tuned on UCF-101 (clips of 16 frames, 10 parts,
    2,048 clips in StyleGAN-V and 10,000 in most papers). With another classifier the values are another quantity: call
    them after it, as in "IS (I3D, Kinetics-400)".

    All logits are kept.

    Args:
        feature: Classifier from clips `(B, C, T, H, W)`, float in [0, 1], to logits `(B, K)`, before the softmax; or
            what `open_feature` opens.
        preset: How clips are prepared: see `Preparation`.
        num_features: K; if None, the network's attribute `num_features`, else measured on a black clip.
        splits: Number of parts.
        seed: Of the shuffling before the clips are cut into parts.

    Raises:
        InputError: `splits` is below 1; or as for `open_feature`, or the number of logits cannot be measured.

    Examples:
        A classifier that is sure about each clip, of four classes that are equally frequent: the score is 4.

        >>> import torch
        >>> from cmd_lightning.metrics import VideoInceptionScore
        >>> class Classifier(torch.nn.Module):
        ...     def forward(self, video):
        ...         return 100 * video.flatten(1)
        >>> score = VideoInceptionScore(Classifier(), num_features=4, splits=1)
        >>> score.update(torch.eye(4).repeat(2, 1).view(8, 1, 4, 1, 1))  # (B, C, T, H, W)
        >>> mean, deviation = score.compute()
        >>> round(mean.item(), 4), deviation.item()
        (4.0, 0.0)
    """

    higher_is_better = True
    plot_lower_bound = 1.0

    logits: list[Tensor]

    def __init__(
        self,
        feature: nn.Module | str | Path,
        preset: str | Preparation | None = None,
        num_features: int | None = None,
        splits: int = 10,
        seed: int = 42,
        **kwargs: Any,
    ) -> None:
        super().__init__(feature, preset, num_features, **kwargs)
        if splits < 1:
            raise InputError(f"splits {splits}: give at least 1")
        self.splits, self.seed = splits, seed
        self.add_state("logits", [], dist_reduce_fx="cat")

    def update(self, video: Tensor) -> None:
        """Take in generated clips `(B, C, T, H, W)`, uint8 or float in [0, 1].

        Raises:
            InputError: The clips or their logits have another shape or range, or are not finite.
        """
        self.logits.append(self.features(video).double())

    def update_features(self, logits: Tensor) -> None:
        """Take in logits `(B, K)` that `features` gave."""
        compat.note_update(self)
        self.logits.append(logits.double())

    def compute(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation over the parts, two scalars in double precision.

        Raises:
            InputError: Fewer clips than parts.
        """
        logits = torch.cat([self._none(), *self.logits]) if isinstance(self.logits, list) else self.logits
        return inception_score(logits, self.splits, self.seed)

    def plot(self, val: Any = None, ax: Any = None) -> Any:
        """Plots the mean of one value or of several, as of `compute`: figure and axes."""
        value = self.compute() if val is None else val
        return compat.plot(self, [mean for mean, _ in value] if isinstance(value, list) else value[0], ax)
