import json
import math

import numpy as np
import pytest
import torch

from cmd_lightning.shapes.drawing import draw_scene
from cmd_lightning.shapes.painting import centres, make_clip, positions, radii, render
from cmd_lightning.shapes.scenes import (
    COLOURS,
    DIRECTIONS,
    PATTERNS,
    SHAPES,
    SIZES,
    TEXTURES,
    Background,
    Bar,
    Camera,
    Scene,
    Thing,
)


def centroid(video, background):
    """Of the pixels that differ from the background, in sides of the frame: (T, 2) as x, y."""
    weight = (video.float() - background).abs().sum(0)  # (T, H, W)
    grid = (torch.arange(video.shape[-1]) + 0.5) / video.shape[-1]
    total = weight.sum((1, 2))
    return torch.stack([(weight.sum(1) * grid).sum(1) / total, (weight.sum(2) * grid).sum(1) / total], 1)


def circle(**changes):
    """A white circle that stands still in the middle."""
    names = {"shape": "circle", "colour": "white", "size": "medium", "direction": "none", "path": "still"}
    return Thing(**names | {"start": (0.5, 0.5), "speed": 0.0} | changes)


def scene_of(*things, **changes):
    return Scene("mixed", "middle", things, **{"background": Background()} | changes)


@pytest.mark.parametrize("level", ["plain", "mixed"])
def test_a_clip_is_a_function_of_seed_and_index(level):
    first, facts = make_clip(1, 2, frames=5, fps=8, size=32, level=level)
    again, facts_again = make_clip(1, 2, frames=5, fps=8, size=32, level=level)
    assert torch.equal(first, again)
    assert facts == facts_again
    assert first.shape == (3, 5, 32, 32)
    assert first.dtype == torch.uint8
    clips = [make_clip(seed, index, frames=4, size=16, level=level)[0] for seed in (0, 1) for index in range(9)]
    assert len({clip.numpy().tobytes() for clip in clips}) == 18


@pytest.mark.parametrize("motion", ["slow", "middle", "extreme"])
def test_the_plain_frame_shows_the_truth(motion):
    for index in range(16):
        video, facts = make_clip(0, index, level="plain", motion=motion)
        (thing,) = facts["things"]
        path = torch.tensor(thing["positions"])
        # A triangle's centroid is its centre too.
        assert torch.allclose(centroid(video, facts["background"]["colours"][0][0]), path, atol=0.004)
        x, y = (path[3] * 64).int().tolist()
        assert tuple(video[:, 3, y, x].tolist()) == COLOURS[thing["colour"]]


@pytest.mark.parametrize("motion", ["middle", "extreme"])
def test_the_mixed_frame_shows_the_truth(motion):
    looked, cameras = 0, 0
    for index in range(60):
        video, facts = make_clip(0, index, level="mixed", motion=motion)
        for number, thing in enumerate(facts["things"]):
            for time in range(0, 16, 3):
                x, y = thing["positions"][time]
                if not (0.03 < x < 0.97 and 0.03 < y < 0.97) or covered(facts, number, time):
                    continue
                # A texture only darkens the colour.
                pixel = video[:, time, int(y * 64), int(x * 64)].float()
                colour = torch.tensor(COLOURS[thing["colour"]]).float()
                assert torch.cosine_similarity(pixel, colour, 0) > 0.99
                assert 0.3 < pixel.norm() / colour.norm() < 1.01
                looked += 1
                cameras += facts["camera"]["speed"] > 0
    assert looked > 200
    assert cameras > 80


def covered(facts, number, time):
    """Whether the centre of a thing lies behind the bar or near a thing before it, by the facts alone."""
    x, y = facts["things"][number]["positions"][time]
    for other in facts["things"][number + 1 :]:
        if math.dist((x, y), other["positions"][time]) < other["radii"][time] * 1.25 + 0.03:
            return True
    bar, camera = facts["bar"], facts["camera"]
    if bar is None:
        return False
    axis, zoom = (0 if bar["upright"] else 1), camera["zooms"][time]
    place = (bar["place"] - 0.5 - camera["shifts"][time][axis]) * zoom + 0.5
    return abs((x, y)[axis] - place) < bar["width"] / 2 * zoom + 0.03


@pytest.mark.parametrize("level", ["plain", "mixed"])
def test_a_still_clip_has_equal_frames(level):
    for index in range(10):
        video, facts = make_clip(0, index, frames=6, level=level, motion="still")
        assert (video == video[:, :1]).all()
        assert "stands still" in facts["caption"]


def test_bouncing_reflects():
    thing = circle(size="small", path="bouncing", direction="down right", start=(0.5, 0.3), speed=0.1 * math.sqrt(2))
    place, speed, expected = np.array([0.5, 0.3]), np.array([0.1, 0.1]), []
    for _ in range(40):  # step by step, against the closed form
        expected.append(place.copy())
        place += speed
        for axis in (0, 1):
            for wall in (0.1, 0.9):
                if (place[axis] - wall) * (0.5 - wall) > 0:
                    continue
                place[axis], speed[axis] = 2 * wall - place[axis], -speed[axis]
    assert np.allclose(centres(thing, 40), expected)


def test_a_circular_path_is_a_circle():
    for direction, sign in (("clockwise", 1), ("anticlockwise", -1)):
        path = centres(circle(path="circular", direction=direction, turn=0.15, phase=1.0, speed=0.03), 30) - 0.5
        assert np.allclose(np.hypot(*path.T), 0.15)
        # On a screen, where y points down, a clockwise turn has a positive cross product.
        cross = path[:-1, 0] * path[1:, 1] - path[:-1, 1] * path[1:, 0]
        assert np.allclose(np.arcsin(cross / 0.15**2), sign * 0.03 / 0.15)


def test_the_camera_moves_everything_the_other_way():
    pan = scene_of(circle(), camera=Camera("down left", 0, 1 / 64))
    found = centroid(render(pan, 10, 64), 0) * 64
    steps = torch.arange(10.0)
    assert torch.allclose(found, torch.stack([32 + steps, 32 - steps], 1), atol=0.02)
    assert np.allclose(positions(pan, 10)[0] * 64, found, atol=0.02)
    # A pattern and a bar move along; nothing moves without a camera.
    ground = Background("waves", ((0, 0, 0), (90, 60, 30)), 0.4, 1.0, 0.3)
    video = render(scene_of(background=ground, bar=Bar(True, 0.3, 0.2, 120), camera=Camera("right", 0, 1 / 64)), 4, 64)
    assert torch.equal(video[:, 0, :, 3:], video[:, 3, :, :-3])
    assert not torch.equal(video[:, 0], video[:, 3])
    # Zooming in enlarges distances and areas, up to a factor 1.5.
    scene = scene_of(circle(start=(0.3, 0.5), size="small"), camera=Camera("none", 1, 1 / 64))
    video = render(scene, 33, 64)
    offset = 0.5 - centroid(video, 0)[:, 0]
    area = video[0].float().sum((1, 2)) / 245 / 64**2
    assert offset[[0, 32]].tolist() == pytest.approx([0.2, 0.3], abs=0.002)
    assert (offset[1:] > offset[:-1]).all()
    assert area[[0, 32]].tolist() == pytest.approx([math.pi * 0.01, math.pi * 0.0225], rel=0.02)


def test_growing_and_shrinking():
    for growth, last in ((1, 1.6), (-1, 1 / 1.6)):
        thing = circle(size="large", path="straight", direction="up", growth=growth, speed=0.02)
        sizes = radii(thing, 26)
        assert sizes[[0, 25]].tolist() == pytest.approx([0.24, 0.24 * last])
        assert (np.diff(sizes) * growth > 0).all()


@pytest.mark.parametrize(
    ("shape", "area"), [("circle", math.pi), ("square", 1.7**2), ("triangle", 3 * math.sqrt(3) / 4), ("diamond", 4 / 3)]
)
def test_areas(shape, area):
    for angle in (0.0, 0.7):  # a turn changes the outline, not the area
        video = render(scene_of(circle(shape=shape, size="large", angle=angle)), 1, 64)
        covered = video[0, 0].float().sum() / 245 / 64**2
        assert covered == pytest.approx(area * SIZES["large"] ** 2, rel=0.02)


def test_spin_turns_clockwise_on_the_screen():
    video = render(scene_of(circle(shape="diamond", size="large", spin=math.pi / 32)), 17, 64)[0].float()
    grid = (torch.arange(64) + 0.5) / 64 - 0.5
    x, y = grid[None], grid[:, None]
    # The long axis starts upright, leans to the upper right, and lies after a quarter turn.
    spread = [[(video[t] * product).sum().item() for product in (x * x, y * y, x * y)] for t in (0, 8, 16)]
    assert spread[0][1] > 1.5 * spread[0][0]
    assert spread[1][2] < -0.2 * spread[1][0]
    assert spread[2][0] > 1.5 * spread[2][1]


def test_every_texture_and_pattern_differs():
    images = [render(scene_of(circle(texture=texture)), 1, 32) for texture in TEXTURES]
    images += [
        render(scene_of(background=Background(pattern, ((9, 9, 9), (90, 90, 90)), 0.4, 0.5)), 1, 32)
        for pattern in PATTERNS
    ]
    assert len({image.numpy().tobytes() for image in images}) == len(TEXTURES) + len(PATTERNS)


def test_later_things_and_the_bar_are_in_front():
    things = circle(colour="red", size="large"), circle(colour="blue", size="small")
    video = render(scene_of(*things, bar=Bar(False, 0.7, 0.1, 99)), 1, 64)[:, 0]
    assert tuple(video[:, 32, 32].tolist()) == COLOURS["blue"]
    assert tuple(video[:, 32, 22].tolist()) == COLOURS["red"]
    assert video[:, 45, 32].tolist() == [99] * 3


def test_a_scene_is_the_same_at_every_resolution():
    small, large = (render(draw_scene(0, 5, level="mixed"), 4, size).float() for size in (32, 128))
    pooled = torch.nn.functional.avg_pool2d(large.flatten(0, 1), 4).view_as(small)
    assert (small - pooled).abs().mean() < 3


def test_facts_are_plain_data_with_the_truth_of_each_frame():
    for level in ("plain", "mixed"):
        scene = draw_scene(0, 2, level=level)
        _, facts = make_clip(0, 2, fps=5, level=level)
        facts = json.loads(json.dumps(facts))
        assert (facts["level"], facts["motion"], facts["fps"], facts["caption"]) == (level, "middle", 5, scene.caption)
        assert facts["label"] == SHAPES.index(scene.things[0].shape)
        assert facts["seen"] is scene.seen
        for thing, message in zip(scene.things, facts["things"], strict=True):
            assert (message["shape"], message["colour"], message["texture"]) == (
                thing.shape,
                thing.colour,
                thing.texture,
            )
            assert message["direction"] in {*DIRECTIONS, "clockwise", "anticlockwise"}
            assert [len(message[name]) for name in ("positions", "radii", "angles")] == [16] * 3
            assert len(message["positions"][0]) == 2
        assert [len(facts["camera"][name]) for name in ("shifts", "zooms")] == [16, 16]
