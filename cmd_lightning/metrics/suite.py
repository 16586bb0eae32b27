"""MetricSuite: several metrics over the same clips, each network run once a batch."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torchmetrics import Metric, SumMetric

from cmd_lightning.errors import InputError
from cmd_lightning.metric_names import DISTANCES, PAIRED, SHORT, SMALLEST, Asked
from cmd_lightning.metrics.clip_similarity import CLIPSimilarity
from cmd_lightning.metrics.feature_metric import FeatureDistance, FeatureMetric
from cmd_lightning.metrics.inception_score import VideoInceptionScore
from cmd_lightning.metrics.inputs import unit_range
from cmd_lightning.metrics.names import build
from cmd_lightning.metrics.per_frame import PerFrame
from cmd_lightning.metrics.precision import OwnPrecision
from cmd_lightning.metrics.reconstruction import psnr, ssim
from cmd_lightning.metrics.sample_size import extrapolated

FEWEST = 8  # clips for a curve over their number


@dataclass(frozen=True)
class SuiteMetric(Asked):
    """A metric of the suite, and the set of generated clips it is fed with."""

    fake: str
    metric: Metric

    @property
    def label(self) -> str:
        """What its value is called: as in the literature only over the networks that the literature means."""
        if self.kind in PAIRED or SHORT.get(self.kind) == f"clipsim:{self.what}":
            return self.kind
        if self.kind == "clipsim":
            return f"clip_similarity({self.metric.name})"
        name = getattr(self.metric.feature, "name", self.what)
        if self.kind == "is":
            return f"inception_score({name})"
        published, otherwise = DISTANCES[self.kind]
        return published if getattr(self.metric.feature, "published", False) else f"{otherwise}({name})"


class MetricSuite(nn.Module):
    """Metrics of one or several sets of generated clips against the same real ones.

    Args:
        metrics: Their names: fvd, kvd, clipsim, psnr, ssim, lpips; or over other features frechet:FEATURE and
            kernel:FEATURE (as `open_feature` knows them), is:CLASSIFIER (an I3D or "package.Class"), clipsim:MODEL/TAG
            (of open_clip) and clipsim:METRIC ("package.Class" that makes a `CLIPSimilarity`, or shapes).
        fakes: Names of the sets of generated clips, each with the kinds of metrics that it gets; None for all.
        preset: How clips are prepared for the I3D: see `Preparation.parse`.
        intervals: Whether distances keep their features, and tell a curve over the number of clips, its extrapolation
            and an interval too.
        trust_torchscript: Whether to open TorchScript of unknown origin: see `open_i3d`.
        skip_missing: Whether to leave out metrics whose network cannot be opened, unless that leaves none.

    Attributes:
        missing: What was left out, by name, and why.

    Raises:
        InputError: There is no such metric, no set takes it, its network cannot be opened, or the preset is for none.

    Examples:
        >>> import torch
        >>> from cmd_lightning.metrics import MetricSuite
        >>> suite = MetricSuite(["psnr"])
        >>> real = torch.zeros(2, 3, 4, 64, 64)
        >>> suite.update(real + 0.1, real=real)
        >>> [record] = suite.results()
        >>> record["metric"], round(record["value"], 3), record["clips"]
        ('psnr', 20.0, {'fake': 2})
    """

    def __init__(
        self,
        metrics: Sequence[str],
        fakes: Mapping[str, Sequence[str] | None] | None = None,
        preset: str | None = None,
        intervals: bool = False,
        trust_torchscript: bool = False,
        skip_missing: bool = False,
    ) -> None:
        super().__init__()
        fakes, asked = fakes or {"fake": None}, {Asked.parse(text): text for text in metrics}
        for one, text in asked.items():
            if not any(kinds is None or one.kind in kinds for kinds in fakes.values()):
                kinds = sorted({kind for kinds in fakes.values() for kind in kinds or ()})
                raise InputError(f"metrics {text}: it cannot be asked for here; what can is {', '.join(kinds)}")
        if preset is not None and not any(one.over_i3d for one in asked):
            raise InputError(f"preset {preset}: none of the metrics {', '.join(metrics)} is over the I3D; leave it out")
        self.intervals = intervals
        networks: dict[str, nn.Module] = {}
        self.entries: list[SuiteMetric] = []
        self.missing: dict[str, str] = {}
        for one, text in asked.items():
            try:
                self.entries += [
                    SuiteMetric(one.kind, one.what, fake, build(one, networks, preset, intervals, trust_torchscript))
                    for fake, kinds in fakes.items()
                    if kinds is None or one.kind in kinds
                ]
            except InputError as error:
                if not skip_missing or len(self.missing) + 1 == len(asked):
                    raise
                self.missing[text] = str(error)
        self.entries.sort(key=lambda entry: list(fakes).index(entry.fake))
        for fake in fakes:
            labels = [entry.label for entry in self.entries if entry.fake == fake]
            if twice := [label for label in labels if labels.count(label) > 1]:
                raise InputError(f"metrics {', '.join(metrics)}: {twice[0]} comes out twice; ask for one of the two")
        self.metrics = OwnPrecision({str(number): entry.metric for number, entry in enumerate(self.entries)})
        self.count_of = {fake: SumMetric() for fake in fakes}
        self.counts = OwnPrecision(self.count_of)

    def asks(self, kind: str | None = None, fake: str = "fake") -> bool:
        """Whether a set of generated clips has a metric of a kind, as "clipsim", or any at all."""
        return any(entry.fake == fake and kind in (None, entry.kind) for entry in self.entries)

    @property
    def paired(self) -> bool:
        """Whether a metric compares each generated clip with the real one it stands for."""
        return any(entry.kind in PAIRED for entry in self.entries)

    @property
    def distances(self) -> dict[str, FeatureDistance]:
        """The distances of the first set of generated clips, by what they are called."""
        first = self.entries[0].fake if self.entries else ""
        return {
            entry.label: entry.metric
            for entry in self.entries
            if entry.fake == first and isinstance(entry.metric, FeatureDistance)
        }

    def update_real(self, video: Tensor) -> None:
        """Take in real clips `(B, C, T, H, W)`, uint8 or float in [0, 1]."""
        features = shared_features(video)
        for entry in self.entries:
            if isinstance(entry.metric, FeatureDistance):
                entry.metric.update_features(features(entry.metric), True, tuple(video.shape[1:]))

    def update(
        self, video: Tensor, fake: str = "fake", captions: Sequence[str] | None = None, real: Tensor | None = None
    ) -> None:
        """Take in generated clips.

        Args:
            video: `(B, C, T, H, W)`, uint8 or float in [0, 1].
            fake: The set they belong to.
            captions: What each should show, for CLIP similarities.
            real: The real clips that they stand for, like `video`, for PSNR, SSIM and LPIPS.

        Raises:
            InputError: Another shape or range; two shapes of a pair; captions or real clips that a metric needs and
                that are missing.
        """
        self.count_of[fake].update(len(video))
        features = shared_features(video)
        for entry in self.entries:
            metric = entry.metric
            if entry.fake != fake:
                continue
            if isinstance(metric, FeatureDistance):
                metric.update_features(features(metric), False, tuple(video.shape[1:]))
            elif isinstance(metric, VideoInceptionScore):
                metric.update_features(features(metric))
            elif isinstance(metric, CLIPSimilarity):
                metric.update(video, captions)
            elif real is None:
                raise InputError(f"real None: {entry.label} compares clips with the real ones; give them too")
            elif min(video.shape[-2:]) < (least := SMALLEST.get(entry.kind, 1)):
                sides = "x".join(map(str, video.shape[-2:]))
                raise InputError(f"{entry.kind} of clips of {sides} pixels: needs at least {least}; give `size` 64")
            elif isinstance(metric, PerFrame):
                metric.update(video, real)
            else:
                metric.update(pair_scores(entry.kind, video, real))

    def results(self) -> list[dict[str, Any]]:
        """What every metric came to, as plain data: a record each. To be called on every process."""
        return [self.record(entry) for entry in self.entries]

    def record(self, entry: SuiteMetric) -> dict[str, Any]:
        """The value of a metric with what it was computed over; warnings go into it too."""
        metric = entry.metric
        result: dict[str, Any] = {"metric": entry.label, "of": entry.fake}
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            value = metric.compute()
        notes = [str(warning.message) for warning in caught]
        clips = {"fake": int(self.count_of[entry.fake].compute())}
        if isinstance(metric, VideoInceptionScore):
            result |= {"value": float(value[0]), "standard_deviation": float(value[1]), "splits": metric.splits}
        else:
            result["value"] = float(value)
        if isinstance(metric, FeatureDistance):
            with metric.sync_context():
                clips = dict(zip(("real", "fake"), metric.counts(), strict=True))
            if entry.kind == "frechet":
                result["unbiased_covariance"] = metric.unbiased
            if self.intervals and min(clips.values()) < FEWEST:
                notes.append(f"no interval of {min(clips.values())} clips; give at least {FEWEST}")
            elif self.intervals:
                curve = metric.curve()
                result |= {"at": curve, "extrapolated": extrapolated(curve), "interval_95": metric.interval()}
                if entry.kind == "frechet" and min(curve) <= metric.num_features:
                    notes.append(f"extrapolated from sets not larger than the {metric.num_features} features: a guess")
        if entry.kind in PAIRED:
            result["average"] = PAIRED[entry.kind]
        origin = getattr(metric, "origin", {})
        notes += [origin["warning"]] if "warning" in origin else []
        details = {"features": origin, "warnings": notes}
        return result | {"clips": clips} | {name: value for name, value in details.items() if value}

    def reset(self) -> None:
        """Forget all clips."""
        for metric in (*(entry.metric for entry in self.entries), *self.count_of.values()):
            metric.reset()


def shared_features(video: Tensor) -> Callable[[FeatureMetric], Tensor]:
    """Features of clips by metric, computed once for all metrics that share a network."""
    known: dict[nn.Module, Tensor] = {}

    def features(metric: FeatureMetric) -> Tensor:
        if metric.feature not in known:
            known[metric.feature] = metric.features(video)
        return known[metric.feature]

    return features


def pair_scores(kind: str, video: Tensor, real: Tensor) -> Tensor:
    """PSNR or SSIM of each clip, `(B,)`."""
    if video.shape != real.shape:
        shapes = f"{tuple(video.shape[1:])} and {tuple(real.shape[1:])}"
        raise InputError(f"{kind} of clips (C, T, H, W) {shapes}: bring pairs to one shape first")
    one, two = (unit_range(x) * 2 - 1 for x in (video, real))
    return {"psnr": psnr, "ssim": ssim}[kind](one, two)
