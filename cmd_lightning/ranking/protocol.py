"""How motion models are ranked: everything that must be the same for two results to be comparable."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from cmd_lightning.shapes.scenes import Level, Motion


@dataclass(frozen=True)
class Protocol:
    """The settings of a ranking.

    Attributes:
        samples: Training samples of a seed; every model sees the same ones, in the same order and with the same noise.
        batch_size: Samples of an optimiser step.
        learning_rate: Adam's peak learning rate; it warms up and falls to zero along a cosine.
        warmup_steps: Steps to the peak.
        ema: Decay of the average of the weights that is scored.
        condition_dropout: Share of samples trained with the null condition.
        guidance: Guidance scale of scored samples; 1 disables it.
        steps: Denoising steps of scored and timed samples.
        train_clips: Clips that training repeats, of the split "train".
        test_clips: Held-out clips that are scored, of the split "test".
        levels: Levels of the clips, in turn.
        motion: Speed of the clips.
        size: Side of the frames in pixels.
        frames: Frames of a clip.
        data_seed: Seed of the procedural world.
        model: The model of the zoo whose autoencoder and text encoder are used, frozen.
    """

    samples: int = 16_000
    batch_size: int = 8
    learning_rate: float = 1e-3
    warmup_steps: int = 100
    ema: float = 0.995
    condition_dropout: float = 0.1
    guidance: float = 4.0
    steps: int = 20
    train_clips: int = 4_000
    test_clips: int = 384
    levels: tuple[Level, ...] = ("plain", "plain", "plain", "mixed")
    motion: Motion = "middle"
    size: int = 32
    frames: int = 16
    data_seed: int = 0
    model: str = "shapes32"

    @property
    def data(self) -> dict[str, Any]:
        """The settings that the cached clips depend on."""
        names = ("train_clips", "test_clips", "levels", "motion", "size", "frames", "data_seed", "model")
        return {name: self.record[name] for name in names}

    @property
    def record(self) -> dict[str, Any]:
        """All settings, as plain data."""
        return asdict(self) | {"levels": list(self.levels)}


def digest(facts: Mapping[str, Any]) -> str:
    """A short fingerprint of plain data."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
