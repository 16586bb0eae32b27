"""Scores of a motion model: clips of true content frames and generated motion, compared with the true clips."""

from __future__ import annotations

import torch
from torch import Tensor

from cmd_lightning.errors import InputError
from cmd_lightning.latent_space import to_uint8
from cmd_lightning.metrics.frechet import frechet_distance_from_features
from cmd_lightning.metrics.kernel import kernel_distance
from cmd_lightning.networks import MotionModel
from cmd_lightning.pipeline import CMDPipeline
from cmd_lightning.ranking.latents import BATCH, Bench
from cmd_lightning.ranking.protocol import Protocol
from cmd_lightning.ranking.train import objective


@torch.no_grad()
def score(network: MotionModel, bench: Bench, protocol: Protocol, seed: int) -> dict[str, float]:
    """Motion prediction (paper section 4.2, table 4a) on the held-out clips.

    Args:
        network: The trained model.
        bench: The clips and the frozen parts.
        protocol: Denoising steps and guidance.
        seed: Seed of the training. The noise of the samples depends on it alone, so it is the same for all models.

    Returns:
        "frechet" and "kernel", the distances of the predicted clips to the true ones on shapes features, and
        "direction", the share, from 0 to 1, of plain clips whose direction is classified correctly.

    Raises:
        InputError: Samples are NaN or infinite.
    """
    video = predict(network, bench, protocol, seed)
    features = torch.cat([bench.features(part) for part in video.split(BATCH)])
    return distances(features, bench) | {"direction": direction(video, bench)}


def predict(network: MotionModel, bench: Bench, protocol: Protocol, seed: int) -> Tensor:
    """The held-out clips with predicted motion, uint8 (N, C, T, H, W)."""
    pipeline, content = with_model(bench, network), bench.tensors["test/content"]
    captions, videos = bench.captions["test"], []
    for first in range(0, len(content), BATCH):
        frames, values = content[first : first + BATCH], captions[first : first + BATCH]
        seeds = [seed * len(content) + row for row in range(first, first + len(frames))]
        motion = pipeline.generate_motion(frames, values, seeds, protocol.steps, protocol.guidance)
        if not motion.isfinite().all():
            raise InputError(f"model {type(network).__name__}: its samples are NaN or infinite after seed {seed}")
        videos.append(to_uint8(pipeline.decode(frames, motion)))
    return torch.cat(videos)


def with_model(bench: Bench, network: MotionModel) -> CMDPipeline:
    """The pipeline of the bench with a motion model."""
    bench.pipeline.register_modules(motion_model=network, motion_scheduler=objective().scheduler())
    return bench.pipeline


def distances(features: Tensor, bench: Bench) -> dict[str, float]:
    """Fréchet and kernel distance of features `(N, d)` to those of the held-out clips."""
    real = bench.tensors["test/features"]
    return {
        "frechet": float(frechet_distance_from_features(features, real)),
        "kernel": float(kernel_distance(features, real)),
    }


def direction(video: Tensor, bench: Bench) -> float:
    """The share of plain clips among `video` whose direction is classified correctly."""
    readings = bench.reader.read(video[list(bench.directions)])
    hits = [reading.direction == right for reading, right in zip(readings, bench.directions.values(), strict=True)]
    return sum(hits) / len(hits)


@torch.no_grad()
def references(bench: Bench) -> dict[str, dict[str, float]]:
    """Reference scores: of perfect motion, and of other real clips."""
    content, motion = bench.tensors["test/content"], bench.tensors["test/motion"]
    parts = zip(content.split(BATCH), motion.split(BATCH), strict=True)
    video = torch.cat([to_uint8(bench.pipeline.decode(*part)) for part in parts])
    return {
        "reconstruction": distances(bench.tensors["test/reconstruction"], bench)
        | {"direction": direction(video, bench)},
        "other clips": distances(bench.tensors["val/features"], bench),
    }
