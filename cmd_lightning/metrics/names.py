"""From the name of a metric to the metric."""

from __future__ import annotations

from torch import nn
from torchmetrics import MeanMetric, Metric

from cmd_lightning.errors import InputError
from cmd_lightning.metric_names import PAIRED, Asked, is_importable
from cmd_lightning.metrics.clip_similarity import CLIPSimilarity
from cmd_lightning.metrics.feature_networks import import_part, open_feature
from cmd_lightning.metrics.frechet import FrechetVideoDistance
from cmd_lightning.metrics.inception_score import VideoInceptionScore
from cmd_lightning.metrics.kernel import KernelVideoDistance
from cmd_lightning.metrics.per_frame import PerFrame


def build(asked: Asked, networks: dict[str, nn.Module], preset: str | None, keep: bool, trust: bool) -> Metric:
    """The metric, on one of the feature networks that are open already, or on one that it adds to these."""
    if asked.kind == "clipsim":
        if is_importable(asked.what, asked.kind):
            return import_part(asked.what, asked.kind, CLIPSimilarity)
        model, _, pretrained = asked.what.partition("/")
        return CLIPSimilarity(model, pretrained=pretrained, trust_torchscript=trust)
    if asked.kind == "lpips":
        return PerFrame(_lpips())
    if asked.kind in PAIRED:
        return MeanMetric()
    if asked.what not in networks:
        networks[asked.what] = open_feature(asked.what, preset if asked.over_i3d else None, trust)
    feature = networks[asked.what]
    if asked.kind == "frechet":
        return FrechetVideoDistance(feature, keep_features=keep)
    return KernelVideoDistance(feature) if asked.kind == "kernel" else VideoInceptionScore(feature)


def _lpips() -> Metric:
    from torchmetrics.image import LearnedPerceptualImagePatchSimilarity

    try:
        return LearnedPerceptualImagePatchSimilarity(net_type="alex", normalize=True)
    except (OSError, ModuleNotFoundError) as error:  # those of urllib are OSErrors
        raise InputError(
            f"metrics lpips: no download of its AlexNet ({error}); put the file into torch.hub's folder of checkpoints"
        ) from error
