"""The settings of a ranking, which must be equal for two results to be comparable, and fingerprints of them."""

from __future__ import annotations

import ast
import hashlib
import inspect
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import nn

import cmd_lightning
from cmd_lightning.shapes.scenes import Level, Motion

CODE = (
    *("callbacks/ema.py", "callbacks/sharded_tensors.py", "callbacks/skip_non_finite.py", "compat.py"),
    *("components/*.py", "conditioning.py", "data/plan.py", "diffusion/*.py", "latent_space.py"),
    *("metrics/*.py", "networks/*.py", "pipeline/*.py", "ranking/latents.py", "ranking/score.py", "ranking/train.py"),
    *("shapes/convnet.py", "shapes/features.py", "shapes/reader.py", "shapes/saved_network.py", "shapes/scenes.py"),
    *("threads.py", "zoo/autoencoders/*.py"),
)
"""Files of the package that train, sample and score; the clips have a separate fingerprint, `Bench.key`."""
LIBRARIES = ("abc", "builtins", "diffusers", "huggingface_hub", "torch", "typing")
"""Packages whose version is recorded in the card instead of the fingerprint."""


@dataclass(frozen=True)
class Protocol:
    """The settings of a ranking.

    Attributes:
        samples: Training samples per seed: for every model the same ones, in the same order and with the same noise.
        batch_size: Samples per optimiser step.
        learning_rate: Adam's peak learning rate, after warm-up and before cosine decay to zero.
        warmup_steps: Optimiser steps to the peak.
        ema: Decay of the averaged weights, which are scored.
        condition_dropout: Share of samples trained with the null condition.
        guidance: Guidance scale of scored samples; 1 disables it.
        steps: Denoising steps of scored and timed samples.
        train_clips: Training clips, of the split "train".
        test_clips: Held-out clips that are scored, of the split "test".
        levels: Levels of the clips, used in turn.
        motion: Speed of the clips.
        size: Side of the frames in pixels.
        frames: Frames per clip.
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
    model: str = "shapes32paper"

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


def key_of(record: Mapping[str, Any], network: nn.Module, protocol: Protocol, bench_key: str) -> str:
    """A fingerprint of all that determines the scores of a seed: a candidate's record, code, protocol and clips."""
    root = Path(cmd_lightning.__path__[0])
    code = executed(file for pattern in CODE for file in root.glob(pattern))
    made = {"source": source_of(network), "code": code, "bench": bench_key}
    return digest({**record, **protocol.record, **made})


def source_of(network: nn.Module) -> str:
    """A fingerprint of the files of all classes in a network, including their bases."""
    classes = {cls for module in network.modules() for cls in type(module).__mro__}
    own = [cls for cls in classes if cls.__module__.partition(".")[0] not in LIBRARIES]
    files = {Path(file) for cls in own if (file := inspect.getsourcefile(cls))}
    return executed(file for file in files if file.is_file())


def executed(files: Iterable[Path]) -> str:
    """The sha256 of the code in Python files; docstrings, comments and formatting do not change it.

    As `ast.dump` differs between minor versions of Python, kept scores are not found with another version, and are
    computed again.
    """
    trees = [Executed().visit(ast.parse(path.read_bytes())) for path in sorted(files)]
    return hashlib.sha256("".join(ast.dump(tree, annotate_fields=False) for tree in trees).encode()).hexdigest()


class Executed(ast.NodeTransformer):
    """Removes statements that are only a string: docstrings, also those of constants."""

    def visit_Expr(self, node: ast.Expr) -> ast.Expr | None:
        """Keeps all expressions except constants."""
        return None if isinstance(node.value, ast.Constant) else node
