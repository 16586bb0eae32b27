"""Corruptions of clips to test metrics: in space, in time, and in the paths of shapes.

Each corruption has five strengths, 0 (nothing) to 4, see STRENGTHS and UNITS. Blur and noise change frames and keep
time; shuffle, freeze and reversal keep every frame as it is and change when it is shown; speed and trajectory render
the same scene again.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.shapes.yardstick.augmentations import FRAMES, blur
from cmd_lightning.data.plan import stable_hash
from cmd_lightning.errors import InputError
from cmd_lightning.shapes.drawing import draw_scene
from cmd_lightning.shapes.painting import render, view
from cmd_lightning.shapes.scenes import Level, Motion, Scene

STRENGTHS = {
    "blur": (0.0, 0.75, 1.5, 3.0, 6.0),
    "noise": (0.0, 8.0, 20.0, 50.0, 120.0),
    "shuffle": (0.0, 0.25, 0.5, 0.75, 1.0),
    "freeze": (1, 4, 8, 12, 16),
    "reversal": (0.0, 0.25, 0.5, 0.75, 1.0),
    "speed": (1.0, 1.25, 1.5, 2.0, 3.0),
    "trajectory": (0.0, 1.0, 2.0, 4.0, 8.0),
}
UNITS = {
    "blur": "standard deviation of a Gaussian, in pixels of a 64x64 image",
    "noise": "standard deviation of normal noise, in grey levels of 255",
    "shuffle": "share of the frames of each clip that change places, at random",
    "freeze": "frames in a row, anywhere in each clip, that all show the first of them",
    "reversal": "share of the clips that are played backward",
    "speed": "times as fast: shapes, spin, growth and camera, from the same first frame",
    "trajectory": "root mean square by which each shape is off its path, at random in each frame and smoothed over "
    "three, in pixels of a 64x64 image",
}


@dataclass(frozen=True)
class Clips:
    """Scenes and what they look like."""

    scenes: tuple[Scene, ...]
    video: Tensor  # uint8 (N, 3, T, H, W)
    error: float = 0.0  # root mean square by which shapes are off their paths, in pixels of 64, the mean over clips


def draw_clips(seed: int, num: int, size: int, level: Level, motion: Motion = "middle") -> Clips:
    """Render the first `num` clips of a seed; arguments as of `draw_scene`."""
    scenes = tuple(draw_scene(seed, index, level=level, motion=motion, frames=FRAMES) for index in range(num))
    return Clips(scenes, torch.stack([render(scene, FRAMES, size) for scene in scenes]))


def corrupt(clips: Clips, name: str, amount: float, seed: int = 0) -> Clips:
    """Corrupt each clip by an amount in a unit of UNITS, with random numbers of each clip.

    The random numbers are the same for all amounts, so that a greater amount does more of the same.
    """
    if name not in STRENGTHS:
        raise InputError(f"corruption {name}: give one of {', '.join(STRENGTHS)}")
    video, size, frames = clips.video, clips.video.shape[-1], clips.video.shape[2]
    chances = [np.random.default_rng(stable_hash(name, seed, index)) for index in range(len(video))]
    if name == "speed":
        scenes = [faster(scene, amount) for scene in clips.scenes]
        return Clips(clips.scenes, torch.stack([render(scene, frames, size) for scene in scenes]))
    if name == "trajectory":
        pairs = [(scene, sway(scene, frames, amount, own)) for scene, own in zip(clips.scenes, chances, strict=True)]
        video = torch.stack([render(scene, frames, size, offsets) for scene, offsets in pairs])
        return Clips(clips.scenes, video, float(np.mean([trajectory_error(*pair) for pair in pairs])))
    if name == "blur":
        video = blur(video / 255, torch.full((len(video),), amount * size / 64))
        return Clips(clips.scenes, (video * 255).round().byte())
    if name == "noise":
        normal = np.stack([chance.standard_normal(video.shape[1:], np.float32) for chance in chances])
        return Clips(clips.scenes, (video + amount * torch.from_numpy(normal)).clamp(0, 255).round().byte())
    orders = [order_of(name, amount, frames, chance) for chance in chances]
    return Clips(clips.scenes, torch.stack([clip[:, order] for clip, order in zip(video, orders, strict=True)]))


def order_of(name: str, amount: float, frames: int, chance: np.random.Generator) -> Sequence[int]:
    """Which frame is shown when, under a "shuffle", "freeze" or "reversal" of this amount."""
    order = np.arange(frames)
    if name == "reversal":
        return (order[::-1] if chance.random() < amount else order).tolist()
    if name == "freeze":
        first = int(chance.random() * (frames - amount + 1))
        order[first : first + int(amount)] = first
        return order.tolist()
    places = chance.permutation(frames)[: round(amount * frames)]
    order[places] = np.roll(places, 1)  # a ring: none of them stays where it was
    return order.tolist()


def faster(scene: Scene, rate: float) -> Scene:
    """The same scene with everything so many times as fast; shapes turn at the walls more often."""
    things = tuple(
        dataclasses.replace(thing, speed=thing.speed * rate, spin=thing.spin * rate) for thing in scene.things
    )
    camera = dataclasses.replace(scene.camera, speed=scene.camera.speed * rate)
    return dataclasses.replace(scene, things=things, camera=camera)


def sway(scene: Scene, frames: int, pixels: float, chance: np.random.Generator) -> NDArray[np.float64]:
    """Offsets (N, T, 2) from the paths, for `render`, with this root mean square in pixels of a 64x64 image."""
    steps = chance.standard_normal((len(scene.things), frames + 2, 2))
    offsets = steps[:, :-2] + steps[:, 1:-1] + steps[:, 2:]
    scale = np.sqrt(np.square(offsets).sum(axis=2).mean(axis=1))[:, None, None]
    return offsets / scale * pixels / 64


def trajectory_error(scene: Scene, offsets: NDArray[np.float64]) -> float:
    """Root mean square, in pixels of a 64x64 image, by which these offsets move what is seen."""
    _, zoom = view(scene, offsets.shape[1])
    return 64 * float(np.sqrt(np.square(offsets * zoom[:, None]).sum(axis=2).mean()))
