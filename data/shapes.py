"""The procedural data set: captioned moving shapes, each clip a function of (seed, index) alone.

A `Scene` is drawn by `draw_scene`, told in words by `Scene.caption`, moved by `positions` and painted by
`render`. More shapes go into `SHAPES`; a camera, textures or further objects are further fields of the scene.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cmd_lightning.data.plan import stable_hash

Array = NDArray[np.float32]

COLOURS = {
    "red": (230, 40, 40),
    "orange": (245, 150, 30),
    "yellow": (245, 230, 60),
    "green": (50, 190, 70),
    "cyan": (60, 215, 225),
    "blue": (50, 90, 235),
    "pink": (240, 110, 200),
    "white": (245, 245, 245),
}
SIZES = {"small": 0.1, "medium": 0.16, "large": 0.24}  # radius, in sides of the picture
DIRECTIONS = {  # x to the right, y downwards
    "left": (-1, 0),
    "right": (1, 0),
    "up": (0, -1),
    "down": (0, 1),
    "up left": (-1, -1),
    "up right": (1, -1),
    "down left": (-1, 1),
    "down right": (1, 1),
}


def _circle(x: Array, y: Array) -> Array:
    return np.hypot(x, y) - 1


def _square(x: Array, y: Array) -> Array:
    return np.maximum(abs(x), abs(y)) - 0.85


def _diamond(x: Array, y: Array) -> Array:
    return (abs(x) * 1.5 + abs(y) - 1) / np.float32(np.hypot(1.5, 1))


def _triangle(x: Array, y: Array) -> Array:
    side = np.float32(np.sqrt(3) / 2)
    return np.maximum(abs(x) * side - y / 2, y) - 0.5


# Signed distance from the edge, negative inside, of a shape of radius 1 around 0.
SHAPES: dict[str, Callable[[Array, Array], Array]] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "diamond": _diamond,
}


@dataclass(frozen=True)
class Scene:
    """What is seen. Lengths are in sides of the picture, x to the right and y downwards from the top left.

    Attributes:
        shape: key of SHAPES.
        colour: key of COLOURS.
        size: key of SIZES.
        direction: key of DIRECTIONS, of the first frame.
        path: "straight", or "bouncing" off the edges of the picture.
        start: where the centre is in the first frame.
        velocity: of the centre in the first frame, in sides per second.
        background: grey level, 0 to 255.
    """

    shape: str
    colour: str
    size: str
    direction: str
    path: str
    start: tuple[float, float]
    velocity: tuple[float, float]
    background: int

    @property
    def caption(self) -> str:
        """For example "a small red circle moves up left"; the size is told where it is not medium."""
        size = "" if self.size == "medium" else f"{self.size} "
        return f"a {size}{self.colour} {self.shape} moves {self.direction}"


def draw_scene(seed: int, index: int, duration: float) -> Scene:
    """Draw the scene of a clip.

    Args:
        seed: of the data set.
        index: of the clip, from 0.
        duration: from the first to the last frame, in seconds; straight paths stay inside for so long.
    """
    chance = random.Random(stable_hash("shapes", seed, index))
    shape, colour, size, direction = (chance.choice(list(names)) for names in (SHAPES, COLOURS, SIZES, DIRECTIONS))
    path = chance.choice(["straight", "bouncing"])
    background = chance.randrange(0, 65)
    radius = SIZES[size]
    room = 1 - 2 * radius  # the centre stays between radius and 1 - radius
    travel = chance.uniform(0.5, 0.95) * room * (1 if path == "straight" else 2)
    start, velocity = [], []
    for sign in DIRECTIONS[direction]:
        position = radius + chance.random() * room
        if sign and path == "straight":
            spare = chance.random() * (room - travel)
            position = radius + spare if sign > 0 else 1 - radius - spare
        start.append(position)
        velocity.append(sign * travel / duration)
    return Scene(shape, colour, size, direction, path, (*start,), (*velocity,), background)


def positions(scene: Scene, frames: int, fps: float) -> NDArray[np.float64]:
    """Centre of the shape in each frame, (T, 2) as x, y in sides of the picture."""
    radius = SIZES[scene.size]
    room = 1 - 2 * radius
    times = np.arange(frames)[:, None] / fps
    line = np.array(scene.start) - radius + np.array(scene.velocity) * times
    # Reflection at both edges is a triangle wave.
    return radius + room - abs(line % (2 * room) - room)


def render(scene: Scene, frames: int, fps: float, size: int) -> Tensor:
    """Paint the scene with soft edges one pixel wide.

    Args:
        scene: what to paint.
        frames: number of frames.
        fps: frames per second.
        size: side of the picture in pixels.

    Returns:
        uint8 (C, T, H, W).
    """
    centre = positions(scene, frames, fps).astype(np.float32)[:, :, None]  # (T, 2, 1)
    grid = (np.arange(size, dtype=np.float32) + 0.5) / size
    radius = SIZES[scene.size]
    x = (grid - centre[:, 0]) / radius  # (T, W)
    y = (grid - centre[:, 1]) / radius  # (T, H)
    distance = SHAPES[scene.shape](x[:, None, :], y[:, :, None])  # (T, H, W)
    cover = np.clip(0.5 - distance * (radius * size), 0, 1)
    colour = np.array(COLOURS[scene.colour], np.float32)[:, None, None, None]
    video = scene.background + (colour - scene.background) * cover
    return torch.from_numpy(np.rint(video).astype(np.uint8))


def make_clip(seed: int, index: int, *, frames: int, fps: float, size: int) -> tuple[Tensor, dict[str, Any]]:
    """A clip and the truth about it.

    Args:
        seed: of the data set.
        index: of the clip, from 0.
        frames: number of frames.
        fps: frames per second.
        size: side of the picture in pixels.

    Returns:
        uint8 (C, T, H, W), and the facts that go into the sample's json.
    """
    scene = draw_scene(seed, index, max(frames - 1, 1) / fps)
    facts = {
        "caption": scene.caption,
        "label": list(SHAPES).index(scene.shape),
        "shape": scene.shape,
        "colour": scene.colour,
        "size": scene.size,
        "direction": scene.direction,
        "path": scene.path,
        "background": scene.background,
        "velocity": [round(value, 6) for value in scene.velocity],
        "positions": positions(scene, frames, fps).round(6).tolist(),
        "fps": fps,
    }
    return render(scene, frames, fps, size), facts
