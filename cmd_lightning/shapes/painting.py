"""Scenes of the procedural world to video: where everything is in each frame, and the painting of it."""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cmd_lightning.shapes.drawing import draw_scene
from cmd_lightning.shapes.scenes import COLOURS, DIRECTIONS, SHAPES, SIZES, Background, Scene, Thing

Array = NDArray[np.floating[Any]]


OUTLINES: dict[str, Callable[[Array, Array], Array]] = {
    "circle": lambda x, y: np.hypot(x, y) - 1,
    "square": lambda x, y: np.maximum(abs(x), abs(y)) - np.float32(0.85),
    "triangle": lambda x, y: np.maximum(abs(x) * np.float32(np.sqrt(3) / 2) - y / 2, y) - np.float32(0.5),
    "diamond": lambda x, y: (abs(x) * np.float32(1.5) + abs(y) - 1) / np.float32(np.hypot(1.5, 1)),
}
"""Signed distance from the edge, negative inside, of a shape of radius 1 around 0."""


def triangle_wave(x: Array, height: float) -> Array:
    """Up from 0 to `height` and down again, at slope 1: what bounces between two walls."""
    return height - abs(x % (2 * height) - height)


def centres(thing: Thing, frames: int) -> Array:
    """Centre of a thing in the world in each frame, `(T, 2)` as x, y."""
    times = np.arange(frames, dtype=np.float64)
    start = np.array(thing.start)
    if thing.path == "circular":
        sign = 1 if thing.direction == "clockwise" else -1  # y points down
        angle = thing.phase + sign * times * thing.speed / thing.turn
        return start + thing.turn * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    signs = np.array(DIRECTIONS.get(thing.direction, (0, 0)), np.float64)
    way = thing.speed / max(float(np.linalg.norm(signs)), 1) * times
    if thing.path == "accelerating":  # from 0.4 of the mean speed to 1.6 of it
        way = way * (0.4 + 0.6 * times / max(frames - 1, 1))
    radius = SIZES[thing.size]
    return radius + triangle_wave(start - radius + way[:, None] * signs, 1 - 2 * radius)


def radii(thing: Thing, frames: int) -> Array:
    """Radius of a thing in each frame, `(T,)`: up to 1.6 times as large or small, and back."""
    way = triangle_wave(np.arange(frames) * abs(thing.speed) * 2, 1.0)
    return SIZES[thing.size] * 1.6 ** (thing.growth * way)


def view(scene: Scene, frames: int) -> tuple[Array, Array]:
    """Shift `(T, 2)` and zoom factor `(T,)` of the camera in each frame: up to a quarter of a side and a factor 1.5."""
    way = scene.camera.speed * np.arange(frames)
    shift = triangle_wave(way, 0.25)[:, None] * np.array(DIRECTIONS.get(scene.camera.pan, (0, 0)))
    return shift, 1.5 ** (scene.camera.zoom * triangle_wave(2 * way, 1.0))


def positions(scene: Scene, frames: int) -> Array:
    """Centre of each thing in each frame, `(N, T, 2)` as x, y in sides of the frame."""
    shift, zoom = view(scene, frames)
    world = np.stack([centres(thing, frames) for thing in scene.things])
    return (world - 0.5 - shift) * zoom[:, None] + 0.5


def render(scene: Scene, frames: int, size: int, offsets: Array | None = None) -> Tensor:
    """Paint the scene as uint8 `(C, T, H, W)`, with soft edges one pixel wide.

    `offsets` `(N, T, 2)`, x and y in sides of the world, move each thing off its path in each frame.
    """
    shift, zoom = view(scene, frames)
    grid = ((np.arange(size) + 0.5) / size - 0.5) / zoom[:, None] + 0.5
    x = (grid + shift[:, :1]).astype(np.float32)[:, None, :]  # (T, 1, W), in the world
    y = (grid + shift[:, 1:]).astype(np.float32)[:, :, None]  # (T, H, 1)
    pixels = (size * zoom).astype(np.float32)[:, None, None]  # in a side of the world
    video = _paint_background(scene.background, x, y, pixels, size)
    for number, thing in enumerate(scene.things):
        centre = centres(thing, frames) + (0 if offsets is None else offsets[number])
        _paint_thing(video, thing, centre, x, y, pixels)
    if scene.bar:
        across = x if scene.bar.upright else y
        cover = 0.5 - (abs(across - np.float32(scene.bar.place)) - np.float32(scene.bar.width / 2)) * pixels
        video += (scene.bar.tone - video) * np.clip(cover, 0, 1)
    return torch.from_numpy(np.rint(video).astype(np.uint8))


def _waves(across: Array, period: float, pixels: Array) -> Array:
    """Stripes between 0 and 1 with soft edges one pixel wide."""
    wave = np.sin(across * np.float32(2 * np.pi / period))
    return np.clip(np.float32(0.5) + wave * (np.float32(period / (2 * np.pi)) * pixels), 0, 1)


def _turned(x: Array, y: Array, angle: float | Array) -> tuple[Array, Array]:
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    return x * cos + y * sin, y * cos - x * sin


def _paint_background(background: Background, x: Array, y: Array, pixels: Array, size: int) -> Array:
    first, second = np.array(background.colours, np.float32)[:, :, None, None, None]
    if background.pattern == "flat":
        return np.broadcast_to(first, (3, len(x), size, size)).copy()
    along, across = _turned(x - np.float32(0.5), y - np.float32(0.5), background.angle)
    period = background.period
    shifted = along + np.float32(background.phase * period)
    if background.pattern == "gradient":
        mix = np.clip(along + np.float32(0.5), 0, 1)
    elif background.pattern == "stripes":
        mix = _waves(shifted, period, pixels)
    elif background.pattern == "checks":
        mix = abs(_waves(shifted, period, pixels) - _waves(across, period, pixels))
    else:
        mix = 0.5 + 0.25 * np.sin(shifted * np.float32(2 * np.pi / period))
        mix += 0.25 * np.sin(across * np.float32(3 * np.pi / period))
    return first + (second - first) * mix.astype(np.float32)


def _paint_thing(video: Array, thing: Thing, centre: Array, x: Array, y: Array, pixels: Array) -> None:
    frames = video.shape[1]
    centre = centre.astype(np.float32)[:, :, None, None]
    radius = radii(thing, frames).astype(np.float32)[:, None, None]
    right, down = (x - centre[:, 0]) / radius, (y - centre[:, 1]) / radius
    if thing.spin or thing.angle:
        right, down = _turned(right, down, (thing.angle + thing.spin * np.arange(frames))[:, None, None])
    cover = np.clip(0.5 - OUTLINES[thing.shape](right, down) * (radius * pixels), 0, 1)
    colour = np.array(COLOURS[thing.colour], np.float32)[:, None, None, None]
    if thing.texture != "solid":
        mix = _waves(down, 1.2, radius * pixels)
        if thing.texture == "checked":
            mix = abs(mix - _waves(right, 1.2, radius * pixels))
        colour = colour * (1 - np.float32(0.65) * mix)
    video += (colour - video) * cover


def make_clip(
    seed: int, index: int, *, frames: int = 16, fps: float = 8.0, size: int = 64, **options: Any
) -> tuple[Tensor, dict[str, Any]]:
    """A clip, uint8 `(C, T, H, W)`, and the facts for its json.

    The facts are those of the `Scene`, and for each frame the camera and each thing's position in the image, radius and
    angle. The other options are those of `draw_scene`.
    """
    scene = draw_scene(seed, index, frames=frames, **options)
    shift, zoom = view(scene, frames)
    facts: dict[str, Any] = {"caption": scene.caption, "label": SHAPES.index(scene.things[0].shape)}
    facts |= {"seen": scene.seen, "fps": fps} | asdict(scene)
    for thing, told, places in zip(scene.things, facts["things"], positions(scene, frames), strict=True):
        told["positions"] = places.round(5).tolist()
        told["radii"] = (radii(thing, frames) * zoom).round(5).tolist()
        told["angles"] = (thing.angle + thing.spin * np.arange(frames)).round(4).tolist()
    facts["camera"] |= {"shifts": shift.round(5).tolist(), "zooms": zoom.round(5).tolist()}
    return render(scene, frames, size), facts
