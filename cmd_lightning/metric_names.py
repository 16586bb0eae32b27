"""Names of metrics that a user may ask for. Needs no torch, so that a wrong name is reported at once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from cmd_lightning.errors import InputError

SHORT = {"fvd": "frechet:i3d", "kvd": "kernel:i3d", "clipsim": "clipsim:ViT-B-32-quickgelu/openai"}
"""Names without features, with what they are short for."""

DISTANCES = {"frechet": ("fvd", "frechet_distance"), "kernel": ("kvd", "kernel_distance")}
"""Names of a distance on the published I3D, and on any other features."""

PAIRED = {
    "psnr": "over all frames of a clip, in dB, at most 106.02; mean over clips",
    "ssim": "mean over frames",
    "lpips": "mean over frames, of torchmetrics' LPIPS 0.1 with AlexNet",
}
"""Metrics of a generated clip against its real counterpart, and how they are averaged."""

SMALLEST = {"ssim": 11, "lpips": 31}
"""Pixels on the shorter side of a clip that a metric needs: the window of SSIM, the layers of AlexNet."""

GRAMMAR = "fvd, kvd, clipsim, psnr, ssim, lpips, frechet:FEATURE, kernel:FEATURE, is:CLASSIFIER, clipsim:MODEL/TAG"

I3D_NAMES = ("i3d", "i3d-torchscript")
"""Names of the I3D with the weights of published FVD."""

WEIGHT_SUFFIXES = (".pt", ".pth", ".safetensors")

ALIASES = {
    "feature": {"shapes": "cmd_lightning.shapes.features.ShapesFeatures.from_pretrained"},
    "clipsim": {"shapes": "cmd_lightning.shapes.sheets.SheetSimilarity.from_pretrained"},
}
"""Short names of features and models, by their role."""


@dataclass(frozen=True)
class Asked:
    """A requested metric: its kind, and its features or model."""

    kind: str
    what: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read "fvd", "frechet:shapes", "clipsim:ViT-L-14-quickgelu/openai" and the like."""
        kind, _, what = SHORT.get(text, text).partition(":")
        if kind in DISTANCES and not what:
            raise InputError(f"metrics {text}: give the features, as in {kind}:shapes; metrics are {GRAMMAR}")
        if kind == "is" and not (takes_preset(what) or is_importable(what, kind)):
            raise InputError(f"metrics {text}: give the classifier, as in is:i3d or is:my_package.C3D")
        if kind == "clipsim" and not (is_importable(what, kind) or all(what.partition("/"))):
            raise InputError(f"metrics {text}: give model and weights, as in clipsim:ViT-L-14-quickgelu/openai")
        if kind not in {*DISTANCES, *PAIRED, "is", "clipsim"} or (kind in PAIRED and what):
            raise InputError(f"metrics {text}: there is no such metric; metrics are {GRAMMAR}")
        return cls(kind, what)

    @property
    def over_i3d(self) -> bool:
        """Whether a preset prepares clips for it."""
        return self.kind in (*DISTANCES, "is") and takes_preset(self.what)


def takes_preset(name: str) -> bool:
    """Whether a name is that of an I3D, for which a preset must say how clips are prepared."""
    return name in I3D_NAMES or name.endswith(WEIGHT_SUFFIXES)


def is_importable(name: str, role: str) -> bool:
    """Whether a name is an alias for this role, or names something in a Python module, as "package.Class"."""
    if name in ALIASES.get(role, {}):
        return True
    return "." in name and all(part.isidentifier() for part in name.split(".")) and not Path(name).exists()
