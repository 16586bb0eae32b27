"""The quality of a trained system: joint accuracy, and distances of its videos from held-out clips."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.quality.systems import DATA
from benchmarks.reproduce.needs import i3d_file
from cmd_lightning.components.checkpoints import load_stage
from cmd_lightning.components.cmd import CMD
from cmd_lightning.components.video_diffusion import VideoDiffusion
from cmd_lightning.components.video_model import VideoModel
from cmd_lightning.data.plan import stable_hash
from cmd_lightning.latent_space import from_uint8, to_uint8
from cmd_lightning.metrics.feature_networks import open_feature
from cmd_lightning.metrics.frechet import frechet_distance_from_features
from cmd_lightning.metrics.kernel import kernel_distance
from cmd_lightning.pipeline import CMDPipeline
from cmd_lightning.shapes.drawing import draw_scene
from cmd_lightning.shapes.painting import render
from cmd_lightning.shapes.reader import Reading, ShapesReader, joint_accuracy
from cmd_lightning.shapes.scenes import Scene

BATCH = 16
LEVELS = ("plain", "mixed")
GUIDANCE = {"content": 2.0, "motion": 1.0, "video": 2.0}
"""Guidance scales of the stages; 1 disables it."""
GUIDED = {stage: scale > 1 for stage, scale in GUIDANCE.items()}


def feature_spaces(others: Sequence[str] = ()) -> tuple[str, ...]:
    """The shapes features, the published I3D where its weights are here, and what is asked for."""
    return ("shapes", *(["i3d"] if i3d_file() else []), *others)


@dataclass(frozen=True)
class Clips:
    """Held-out clips.

    Attributes:
        scenes: What they show.
        video: `(N, 3, T, H, W)`, uint8.
    """

    scenes: Sequence[Scene]
    video: Tensor

    @classmethod
    def of(cls, split: str, num: int, level: str, frames: int = DATA["num_frames"]) -> Clips:
        """The first clips of a split, of the motion of all trainings and of all combinations."""
        options = {"level": level, "motion": DATA["motion"], "frames": frames}
        scenes = [draw_scene(stable_hash(0, split), index, **options) for index in range(num)]
        return cls(scenes, torch.stack([render(scene, frames, DATA["size"]) for scene in scenes]))

    @property
    def captions(self) -> list[str]:
        """A caption each."""
        return [scene.caption for scene in self.scenes]


class Yardstick:
    """Measures videos; the networks and the features of real clips are computed once.

    Args:
        num: Videos, and real clips, of a measurement.
        spaces: Feature networks, as `evaluate` names them in frechet:FEATURE.
    """

    def __init__(self, num: int, spaces: Sequence[str] = ("shapes",)) -> None:
        self.num = num
        self.reader = ShapesReader.from_pretrained()
        self.networks: dict[str, nn.Module] = {name: open_feature(name) for name in spaces}
        self._clips: dict[tuple[Any, ...], Clips] = {}
        self._real: dict[tuple[Any, ...], Tensor] = {}

    def clips(self, split: str, level: str, frames: int = DATA["num_frames"]) -> Clips:
        """`num` clips of a split."""
        key = (split, level, frames)
        if key not in self._clips:
            self._clips[key] = Clips.of(split, self.num, level, frames)
        return self._clips[key]

    def accuracy(self, video: Tensor, clips: Clips) -> float:
        """Share of videos whose shape, colour and direction are all those of the clips."""
        return joint_accuracy(self.reader.read(video), list(map(Reading.of, clips.scenes)))

    def distances(self, video: Tensor, level: str) -> dict[str, dict[str, float]]:
        """Fréchet and kernel distance by feature space, of `(N, 3, T, H, W)` from the real clips of split "val"."""
        found, frames = {}, video.shape[2]
        for name, network in self.networks.items():
            key = (name, level, frames)
            if key not in self._real:
                self._real[key] = features(network, self.clips("val", level, frames).video)
            own = features(network, video)
            found[name] = {
                "frechet": float(frechet_distance_from_features(own, self._real[key])),
                "kernel": float(kernel_distance(own, self._real[key])),
            }
        return found


@torch.no_grad()
def features(network: nn.Module, video: Tensor) -> Tensor:
    """Features of uint8 clips, `(N, d)`."""
    return torch.cat([network(part.float() / 255) for part in video.split(BATCH)]).double()


def open_system(checkpoints: Mapping[str, Path]) -> VideoModel:
    """The model of trained stages, by their names."""
    if "video" in checkpoints:
        return VideoDiffusion.load_from_checkpoint(checkpoints["video"]).eval()
    return CMD(**{stage: str(path) for stage, path in checkpoints.items()}).eval()


@torch.no_grad()
def generated(model: VideoModel, captions: Sequence[str], steps: int, stages: Sequence[str]) -> tuple[Tensor, float]:
    """A video for each caption, sample i from seed i, uint8; and the CPU seconds of one."""
    guidance: Any = {stage: GUIDANCE[stage] for stage in stages if stage != "autoencoder"}
    begun, parts = time.process_time(), []
    for first in range(0, len(captions), BATCH):
        some = list(captions[first : first + BATCH])
        parts.append(model.sample(some, seeds=range(first, first + len(some)), steps=steps, guidance=guidance).cpu())
    return torch.cat(parts), (time.process_time() - begun) / len(captions)


def figures(model: VideoModel, yardstick: Yardstick, steps: int, stages: Sequence[str]) -> dict[str, Any]:
    """What is measured of a system at a number of steps per stage."""
    row: dict[str, Any] = {"sampling steps": steps}
    for level in LEVELS:
        clips = yardstick.clips("test", level)
        video, seconds = generated(model, clips.captions, steps, stages)
        row |= {level: yardstick.distances(video, level), "sampling seconds": round(seconds, 3)}
        if level == "plain":
            row["accuracy"] = yardstick.accuracy(video, clips)
    return row


def pipeline_of(checkpoints: Mapping[str, Path]) -> CMDPipeline:
    """The pipeline of an autoencoder and, if there is one, a motion stage, without a content stage."""
    first = load_stage(checkpoints["autoencoder"], "autoencoder", "autoencoder")
    parts: dict[str, Any] = {}
    if "motion" in checkpoints:
        motion = load_stage(checkpoints["motion"], "motion", "motion")
        names = ("motion_model", "network"), ("motion_scheduler", "scheduler")
        parts = {name: motion.parts[own] for name, own in names}
        parts["motion_text_encoder"] = motion.parts["condition_encoder"]
    pipeline = CMDPipeline(first.parts["network"], **parts, video_shape=first.video_shape, fps=first.fps)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@torch.no_grad()
def decoded(pipeline: CMDPipeline, clips: Clips, steps: int | None) -> Tensor:
    """Clips after the autoencoder; with `steps`, their content frames with generated motion."""
    parts = []
    for first in range(0, len(clips.video), BATCH):
        content, motion = pipeline.encode(from_uint8(clips.video[first : first + BATCH]))
        if steps is not None:
            captions = clips.captions[first : first + BATCH]
            seeds = range(first, first + len(captions))
            motion = pipeline.generate_motion(content, captions, seeds, steps, {"motion": GUIDANCE["motion"]})
        parts.append(to_uint8(pipeline.decode(content, motion)))
    return torch.cat(parts)
