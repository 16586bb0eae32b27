"""The paper's table 4 at small scale: variants, and the paper's claims about them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from benchmarks.quality.systems import AXES, Part, Parts, motion_dit, network

SAMPLES: Mapping[str, int] = {"autoencoder": 8_000, "motion": 24_000}
"""Clips that each stage is trained on."""
TABLE_4 = "table 4"
"""The entry of all its rows."""
MOTION = (160, 6, 5)
"""Width, depth and heads of the motion model."""


@dataclass(frozen=True)
class Ablation:
    """A row of table 4.

    Attributes:
        parts: The stages that are trained; equal ones are shared.
        of: "reconstruction", or "motion prediction" on true content frames.
    """

    parts: Parts
    of: str


def reconstruction(frames: int = 16, **changes: object) -> Ablation:
    """An autoencoder of the paper's design with changes."""
    options = AXES["init_args"] | changes
    data = {"num_frames": frames}
    return Ablation(
        (Part("autoencoder", "shapes32paper/autoencoder", network("CMDAutoencoder", **options), 1.0, 4, data),),
        "reconstruction",
    )


def motion(content_patch: int) -> Ablation:
    """A motion model that sees the content frame in patches of this side."""
    [autoencoder] = reconstruction().parts
    part = Part("motion", "shapes32paper/motion", motion_dit(MOTION, content_patch), 1.0, 16)
    return Ablation((autoencoder, part), "motion prediction")


ABLATIONS: Mapping[str, Ablation] = {
    "8 motion channels, weighted sum, 16 frames": reconstruction(),
    "16 motion channels": reconstruction(motion_channels=16),
    "mean frame": reconstruction(weights="mean"),
    "24 frames": reconstruction(frames=24),
    "content patch 4": motion(4),
    "content patch 8": motion(8),
    "content patch 16": motion(16),
}
BASE = next(iter(ABLATIONS))


class Claim(NamedTuple):
    """What table 4 says: FVD of `better` < FVD of `worse`. Predictions are of 2026-12-01, before any training."""

    better: str
    worse: str
    reported: str
    predicted: str

    @property
    def name(self) -> str:
        """What sets it apart."""
        return self.worse if self.better == BASE else self.better


CLAIMS = (
    Claim("16 motion channels", BASE, "56.8 < 69.5", "confirmed"),
    Claim(BASE, "mean frame", "69.5 < 76.1", "undecided"),
    Claim(BASE, "24 frames", "69.5 < 81.3", "confirmed"),
    Claim("content patch 4", "content patch 8", "19.5 < 32.9", "confirmed"),
    Claim("content patch 8", "content patch 16", "32.9 < 40.4", "undecided"),
)
"""Of rows, on WebVid-10M (4b) and UCF-101 (4c)."""
STAGES = (
    Claim("reconstruction", "motion prediction", "7.72 < 19.5", "confirmed"),
    Claim("motion prediction", "generation", "19.5 < 73.1", "confirmed"),
)
"""Of stages (4a), here of CMD as in the paper after the first budget."""
