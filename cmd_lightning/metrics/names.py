"""Metrics by name: what a user may ask for, and what its value may be called."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from torch import nn
from torchmetrics import MeanMetric, Metric

from cmd_lightning.errors import InputError
from cmd_lightning.metrics.clip_similarity import CLIPSimilarity
from cmd_lightning.metrics.feature_networks import import_part, is_importable, open_feature, takes_preset
from cmd_lightning.metrics.frechet import FrechetVideoDistance
from cmd_lightning.metrics.inception_score import VideoInceptionScore
from cmd_lightning.metrics.kernel import KernelVideoDistance
from cmd_lightning.metrics.per_frame import PerFrame

SHORT = {"fvd": "frechet:i3d", "kvd": "kernel:i3d", "clipsim": "clipsim:ViT-B-32-quickgelu/openai"}
"""What names without features stand for."""

DISTANCES = {"frechet": ("fvd", "frechet_distance"), "kernel": ("kvd", "kernel_distance")}
"""Names of a distance on the published I3D, and on any other features."""

PAIRED = {
    "psnr": "over all frames of a clip, in dB, at most 106.02; mean over clips",
    "ssim": "mean over frames",
    "lpips": "mean over frames, of torchmetrics' LPIPS 0.1 with AlexNet",
}
"""Metrics of a generated clip against the real one it stands for, and how they are averaged."""

GRAMMAR = "fvd, kvd, clipsim, psnr, ssim, lpips, frechet:FEATURE, kernel:FEATURE, is:CLASSIFIER, clipsim:MODEL/TAG"


@dataclass(frozen=True)
class Asked:
    """A metric that was asked for: what it does, and on which features."""

    kind: str
    what: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read "fvd", "frechet:shapes", "clipsim:ViT-L-14-quickgelu/openai" and the like."""
        kind, _, what = SHORT.get(text, text).partition(":")
        if kind in DISTANCES and not what:
            raise InputError(f"metrics {text}: say on which features, as in {kind}:shapes; there are {GRAMMAR}")
        if kind == "is" and not (takes_preset(what) or is_importable(what, kind)):
            raise InputError(
                f"metrics {text}: say which classifier gives the logits, as in is:i3d, or is:my_package.C3D"
            )
        if kind == "clipsim" and not (is_importable(what, kind) or all(what.partition("/"))):
            raise InputError(f"metrics {text}: say model and weights, as in clipsim:ViT-L-14-quickgelu/openai")
        if kind not in {*DISTANCES, *PAIRED, "is", "clipsim"} or (kind in PAIRED and what):
            raise InputError(f"metrics {text}: there is no such metric; there are {GRAMMAR}")
        return cls(kind, what)

    @property
    def over_i3d(self) -> bool:
        """Whether clips are prepared for it by a preset."""
        return self.kind in (*DISTANCES, "is") and takes_preset(self.what)

    def build(self, networks: dict[str, nn.Module], preset: str | None, keep: bool, trust: bool) -> Metric:
        """The metric, on one of the feature networks that are open already, or on one that it adds to these."""
        if self.kind == "clipsim":
            if is_importable(self.what, self.kind):
                return import_part(self.what, self.kind, CLIPSimilarity)
            model, _, pretrained = self.what.partition("/")
            return CLIPSimilarity(model, pretrained=pretrained, trust_torchscript=trust)
        if self.kind == "lpips":
            return PerFrame(_lpips())
        if self.kind in PAIRED:
            return MeanMetric()
        if self.what not in networks:
            networks[self.what] = open_feature(self.what, preset if self.over_i3d else None, trust)
        feature = networks[self.what]
        if self.kind == "frechet":
            return FrechetVideoDistance(feature, keep_features=keep)
        return KernelVideoDistance(feature) if self.kind == "kernel" else VideoInceptionScore(feature)


def _lpips() -> Metric:
    from torchmetrics.image import LearnedPerceptualImagePatchSimilarity

    try:
        return LearnedPerceptualImagePatchSimilarity(net_type="alex", normalize=True)
    except (OSError, ModuleNotFoundError) as error:  # those of urllib are OSErrors
        raise InputError(
            f"metrics lpips: no download of its AlexNet ({error}); put the file into torch.hub's folder of checkpoints"
        ) from error
