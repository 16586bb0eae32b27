"""How motion models are ranked: everything that must be the same for two results to be compared."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Protocol:
    """The settings of a ranking.

    Attributes:
        samples: Training samples of a seed; every model sees the same ones, in the same order and with the same noise.
        batch_size: Samples of an optimiser step.
        learning_rate: Peak of Adam's; it warms up and falls to zero along a cosine.
        warmup_steps: Steps to the peak.
        ema: Decay of the average of the weights that is scored.
        condition_dropout: Share of samples trained with the null condition.
        guidance: Guidance scale of scored samples; 1 is none.
        steps: Denoising steps of scored and timed samples.
        train_clips: Clips that training repeats, of the split "train".
        test_clips: Held-out clips that are scored, of the split "test".
        levels: Of the clips, in turn.
        motion: Speed of the clips.
        size: Side of the pictures.
        frames: Of a clip.
        data_seed: Of the procedural world.
        model: Of the zoo, whose autoencoder and text encoder are taken as they are.
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
    levels: tuple[str, ...] = ("plain", "plain", "plain", "mixed")
    motion: str = "middle"
    size: int = 32
    frames: int = 16
    data_seed: int = 0
    model: str = "shapes32"

    @property
    def data(self) -> dict[str, Any]:
        """The settings that the cached clips depend on."""
        names = ("train_clips", "test_clips", "levels", "motion", "size", "frames", "data_seed", "model")
        return {name: plain(getattr(self, name)) for name in names}

    @property
    def record(self) -> dict[str, Any]:
        """All settings, as plain data."""
        return {name: plain(value) for name, value in asdict(self).items()}


def plain(value: Any) -> Any:
    """Tuples as lists, as files give them back."""
    return list(value) if isinstance(value, tuple) else value


def digest(facts: Mapping[str, Any]) -> str:
    """A short fingerprint of plain data."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
