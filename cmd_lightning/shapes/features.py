"""ShapesFeatures: what a small video classifier of the procedural world sees in a clip, for Fréchet and kernel
distances that are called "shapes features", never FVD.
"""

from typing import Any

import torch
from torch import Tensor

from cmd_lightning.shapes.saved_network import SavedNetwork
from cmd_lightning.shapes.scenes import COLOURS, DIRECTIONS, PATHS, PATTERNS, SHAPES, SPEEDS, TEXTURES

PRESENCE = {
    "shape": SHAPES,
    "colour": tuple(COLOURS),
    "texture": TEXTURES,
    "path": (*PATHS, "still"),
    "direction": (*DIRECTIONS, "clockwise", "anticlockwise"),
    "change": ("spin", "growth"),
    "bar": ("bar",),
}
"""Attributes of which a scene shows some, each with its possible names."""

CHOICE = {
    "number": ("1", "2", "3"),
    "pattern": PATTERNS,
    "pan": (*DIRECTIONS, "none"),
    "zoom": ("out", "none", "in"),
    "motion": tuple(SPEEDS),
    "play": (
        *("forward", "backward", "partly shuffled", "shuffled"),
        *("partly frozen", "frozen", "half speed", "double speed"),
    ),
    "blur": ("none", "light", "middle", "strong"),
    "noise": ("none", "light", "middle", "strong"),
}
"""Attributes of which a clip has exactly one."""


class ShapesFeatures(SavedNetwork):
    """The last layer but one of a classifier trained on the attributes of the procedural world, not on real video.

    Its training clips were `plain` and `mixed` ones of all five speeds, also blurred, noised, and played backward,
    shuffled, frozen, at half and at double speed; it was to tell PRESENCE and CHOICE. Distances over its features
    compare clips of that world among each other. They are "shapes features" distances: they are not FVD, cannot be
    compared with any published one, and say nothing about other kinds of video.

    Features are shifted and scaled to mean 0 and variance 1 over clean `mixed` and `plain` clips.

    Args:
        settings: Of the `VideoConvNet`.

    Attributes:
        num_features: Length of a feature vector.
    """

    WEIGHTS = "shapes_features.safetensors"
    ANSWERS = PRESENCE | CHOICE
    name, published = "shapes", False
    mean: Tensor
    scale: Tensor

    def __init__(self, **settings: Any) -> None:
        super().__init__({"hidden": 256}, **settings)
        self.num_features = self.trunk.num_features
        self.register_buffer("mean", torch.zeros(self.num_features))
        self.register_buffer("scale", torch.ones(self.num_features))

    def forward(self, video: Tensor) -> Tensor:
        """Features `(B, num_features)` of clips `(B, 3, T, H, W)`, uint8 or float in [0, 1], square, T >= 8."""
        return (self.trunk(video) - self.mean) / self.scale

    def classify(self, video: Tensor) -> dict[str, Tensor]:
        """Logits `(B, N)` of each attribute: of presence, one by one, for PRESENCE; of a choice of one for CHOICE."""
        return self.answer(self.trunk(video))

    @torch.no_grad()
    def standardise(self, video: Tensor) -> None:
        """Shift and scale features so that over these clips each has mean 0 and variance 1."""
        features = torch.cat([self.trunk(part) for part in video.split(64)])
        self.mean.copy_(features.mean(dim=0))
        self.scale.copy_(features.std(dim=0))
