"""MetricSuite: metrics by their names over the same clips, each network run once a batch."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torchmetrics import MeanMetric, Metric

from cmd_lightning.errors import InputError
from cmd_lightning.metrics.clip_similarity import CLIPSimilarity, SheetSimilarity
from cmd_lightning.metrics.feature_metric import FeatureDistance, FeatureMetric
from cmd_lightning.metrics.feature_networks import open_feature, takes_preset
from cmd_lightning.metrics.frechet import FrechetVideoDistance
from cmd_lightning.metrics.inception_score import VideoInceptionScore
from cmd_lightning.metrics.inputs import unit_range
from cmd_lightning.metrics.kernel import KernelVideoDistance
from cmd_lightning.metrics.per_frame import PerFrame
from cmd_lightning.metrics.reconstruction import psnr, ssim
from cmd_lightning.metrics.sample_size import extrapolated

SHORT = {"fvd": "frechet:i3d", "kvd": "kernel:i3d", "is": "is:i3d", "clipsim": "clipsim:ViT-B-32-quickgelu/openai"}
"""What names without features stand for."""

DISTANCES = {"frechet": ("fvd", "frechet_distance"), "kernel": ("kvd", "kernel_distance")}
"""Names of a distance over the published I3D, and over anything else."""

PAIRED = {"psnr": psnr, "ssim": ssim, "lpips": None}
"""Metrics of a generated clip against the real one it stands for."""

GRAMMAR = "fvd, kvd, is, clipsim, psnr, ssim, lpips, frechet:FEATURE, kernel:FEATURE, is:CLASSIFIER, clipsim:MODEL/TAG"


@dataclass(frozen=True)
class Asked:
    """A metric that was asked for: what it does, and over which features."""

    kind: str
    what: str

    @classmethod
    def parse(cls, text: str) -> Asked:
        """Read "fvd", "frechet:shapes", "clipsim:ViT-L-14-quickgelu/openai" and the like.

        Raises:
            InputError: There is no such metric.
        """
        kind, _, what = SHORT.get(text, text).partition(":")
        if kind in DISTANCES or kind in ("is", "clipsim"):
            if what:
                return cls(kind, what)
            raise InputError(f"metrics {text}: say over which features, as in {kind}:shapes; there are {GRAMMAR}")
        if kind in PAIRED and not what:
            return cls(kind, what)
        raise InputError(f"metrics {text}: there is no such metric; there are {GRAMMAR}")


@dataclass(frozen=True)
class Entry:
    """A metric of the suite, and the set of generated clips it is fed with."""

    asked: Asked
    fake: str
    metric: Metric


class MetricSuite(nn.Module):
    """Metrics of one or several sets of generated clips against the same real ones.

    Args:
        metrics: Their names: fvd, kvd, is, clipsim, psnr, ssim, lpips; or with other features than the usual ones
            frechet:FEATURE, kernel:FEATURE, is:CLASSIFIER (as `open_feature` knows them), clipsim:MODEL/WEIGHTS (of
            open_clip) and clipsim:shapes.
        fakes: Names of the sets of generated clips, each with the metrics that it gets; None for all of them.
        preset: How clips are prepared for the I3D: see `Protocol.parse`.
        intervals: Whether distances keep their features, and tell a curve over the number of clips, its extrapolation
            and an interval too.
        trust_torchscript: Whether to open torchscript weights of unknown origin: see `open_i3d`.

    Raises:
        InputError: There is no such metric, or its network cannot be opened.
    """

    def __init__(
        self,
        metrics: Sequence[str],
        fakes: dict[str, Sequence[str] | None] | None = None,
        preset: str | None = None,
        intervals: bool = False,
        trust_torchscript: bool = False,
    ) -> None:
        super().__init__()
        if preset is not None and not any(takes_preset(Asked.parse(name).what) for name in metrics):
            raise InputError(f"preset {preset}: none of the metrics {', '.join(metrics)} is over the I3D; leave it out")
        self.intervals = intervals
        networks: dict[str, nn.Module] = {}
        self.entries: list[Entry] = []
        for fake, kinds in (fakes or {"generated": None}).items():
            for asked in dict.fromkeys(map(Asked.parse, metrics)):
                if kinds is None or asked.kind in kinds:
                    metric = build(asked, networks, preset, intervals, trust_torchscript)
                    self.entries.append(Entry(asked, fake, metric))
        self.metrics = nn.ModuleList(entry.metric for entry in self.entries)

    def asks(self, kind: str | None = None, fake: str = "generated") -> bool:
        """Whether a set of generated clips has a metric of a kind, as "clipsim", or any at all."""
        return any(entry.fake == fake and kind in (None, entry.asked.kind) for entry in self.entries)

    @property
    def paired(self) -> bool:
        """Whether a metric compares each generated clip with the real one it stands for."""
        return any(entry.asked.kind in PAIRED for entry in self.entries)

    def distances(self, fake: str = "generated") -> dict[str, FeatureDistance]:
        """The distances of a set of generated clips, by name."""
        return {
            f"{entry.asked.kind}:{entry.asked.what}": entry.metric
            for entry in self.entries
            if entry.fake == fake and isinstance(entry.metric, FeatureDistance)
        }

    def update_real(self, video: Tensor) -> None:
        """Take in real clips `(B, C, T, H, W)`, uint8 or float in [0, 1]."""
        features = shared_features(video)
        for metric in self.metrics:
            if isinstance(metric, FeatureDistance):
                metric.expect_shape(video)
                metric.update_features(features(metric), real=True)

    def update(
        self,
        video: Tensor,
        fake: str = "generated",
        captions: Sequence[str] | None = None,
        real: Tensor | None = None,
    ) -> None:
        """Take in generated clips.

        Args:
            video: `(B, C, T, H, W)`, uint8 or float in [0, 1].
            fake: The set they belong to.
            captions: What each should show, for CLIP similarities.
            real: The real clips that they stand for, like `video`, for PSNR, SSIM and LPIPS.
        """
        features = shared_features(video)
        for entry in self.entries:
            metric = entry.metric
            if entry.fake != fake:
                continue
            if isinstance(metric, FeatureDistance):
                metric.expect_shape(video)
                metric.update_features(features(metric), real=False)
            elif isinstance(metric, VideoInceptionScore):
                metric.update_features(features(metric))
            elif isinstance(metric, CLIPSimilarity):
                metric.update(video, captions)
            elif isinstance(metric, PerFrame):
                metric.update(video, real)
            else:
                pair = (unit_range(x) * 2 - 1 for x in (video, real))
                metric.update(PAIRED[entry.asked.kind](*pair))

    def results(self) -> list[dict[str, Any]]:
        """What every metric came to, as plain data: a record each. To be called on every process."""
        return [record(entry, self.intervals) for entry in self.entries]

    def reset(self) -> None:
        """Forget all clips."""
        for entry in self.entries:
            entry.metric.reset()


def build(
    asked: Asked,
    networks: dict[str, nn.Module],
    preset: str | None,
    keep_features: bool,
    trust_torchscript: bool,
) -> Metric:
    """A metric; feature networks are taken from `networks` or put there."""
    if asked.kind == "clipsim":
        if asked.what == "shapes":
            return SheetSimilarity.from_pretrained()
        model, _, pretrained = asked.what.partition("/")
        return CLIPSimilarity(model, pretrained=pretrained)
    if asked.kind == "lpips":
        return PerFrame(_lpips())
    if asked.kind in PAIRED:
        return MeanMetric()
    if asked.what not in networks:
        preset = preset if takes_preset(asked.what) else None
        networks[asked.what] = open_feature(asked.what, preset, trust_torchscript)
    feature = networks[asked.what]
    if asked.kind == "is":
        return VideoInceptionScore(feature)
    if asked.kind == "kernel":
        return KernelVideoDistance(feature)
    return FrechetVideoDistance(feature, keep_features=keep_features)


def shared_features(video: Tensor) -> Callable[[FeatureMetric], Tensor]:
    """A function that gives the features of a metric's network, computed once for all metrics that share it."""
    known: dict[int, Tensor] = {}

    def features(metric: FeatureMetric) -> Tensor:
        key = id(metric.feature)
        if key not in known:
            known[key] = metric.features(video)
        return known[key]

    return features


def record(entry: Entry, intervals: bool) -> dict[str, Any]:
    """The value of a metric with what it was computed over; warnings go into it too."""
    metric, asked = entry.metric, entry.asked
    result: dict[str, Any] = {"metric": label(entry), "of": entry.fake}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        value = metric.compute()
        if isinstance(metric, VideoInceptionScore):
            result |= {"value": float(value[0]), "standard_deviation": float(value[1]), "splits": metric.splits}
        else:
            result["value"] = float(value)
    if isinstance(metric, FeatureDistance):
        with metric.sync_context():
            real, fake = metric.counts()
        result["clips"] = {"real": real, "generated": fake}
        if asked.kind == "frechet":
            result["unbiased_covariance"] = metric.unbiased
        if intervals and min(real, fake) >= 8:
            curve = metric.curve()
            result |= {"at": curve, "extrapolated": extrapolated(curve), "interval_95": metric.interval()}
    told = [str(warning.message) for warning in caught]
    origin = getattr(getattr(metric, "feature", metric), "origin", None)
    if origin:
        result["features"] = origin
        told += [origin["warning"]] if "warning" in origin else []
    return result | ({"warnings": told} if told else {})


def label(entry: Entry) -> str:
    """What a value is called: by the literature's names only with the networks that the literature means."""
    kind, metric = entry.asked.kind, entry.metric
    if kind in PAIRED:
        return kind
    if kind == "clipsim":
        return kind if entry.asked == Asked.parse(kind) else f"clip_similarity({entry.asked.what})"
    network = metric.feature
    name = getattr(network, "name", type(network).__name__)
    if kind == "is":
        return f"inception_score({name})"
    published, otherwise = DISTANCES[kind]
    return published if getattr(network, "published", False) else f"{otherwise}({name})"


def _lpips() -> Metric:
    """LPIPS of the AlexNet, as torchmetrics has it."""
    from urllib.error import URLError

    from torchmetrics.image import LearnedPerceptualImagePatchSimilarity

    try:
        return LearnedPerceptualImagePatchSimilarity(net_type="alex", normalize=True)
    except (URLError, OSError, ModuleNotFoundError) as error:
        raise InputError(
            f"metrics lpips: its AlexNet is neither in torch.hub's cache nor can it be downloaded ({error})"
        ) from error
