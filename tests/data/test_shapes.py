import numpy as np
import pytest
import torch

from cmd_lightning.data.shapes import (
    COLOURS,
    DIRECTIONS,
    SHAPES,
    SIZES,
    Scene,
    draw_scene,
    make_clip,
    positions,
    render,
)


def centroid(video, scene):
    """Of the pixels that differ from the background, in sides of the picture."""
    weight = (video.float() - scene.background).abs().sum(0)  # (T, H, W)
    grid = (torch.arange(video.shape[-1]) + 0.5) / video.shape[-1]
    total = weight.sum((1, 2))
    return torch.stack([(weight.sum(1) * grid).sum(1) / total, (weight.sum(2) * grid).sum(1) / total], 1)


def test_a_clip_is_a_function_of_seed_and_index():
    first, facts = make_clip(1, 2, frames=5, fps=8, size=32)
    again, facts_again = make_clip(1, 2, frames=5, fps=8, size=32)
    assert torch.equal(first, again)
    assert facts == facts_again
    assert first.shape == (3, 5, 32, 32)
    assert first.dtype == torch.uint8
    assert (
        len({str(make_clip(seed, index, frames=2, fps=8, size=16)[1]) for seed in (0, 1) for index in range(20)}) == 40
    )


@pytest.mark.parametrize("index", range(24))
def test_the_picture_shows_the_truth(index):
    scene = draw_scene(0, index, 15 / 8)
    video, facts = make_clip(0, index, frames=16, fps=8, size=64)
    if scene.shape in {"circle", "square", "diamond"}:  # a triangle's centroid is its centre too, roughly
        assert torch.allclose(centroid(video, scene), torch.tensor(facts["positions"]).float(), atol=0.004)
    path = np.array(facts["positions"])
    radius = SIZES[scene.size]
    assert (path >= radius - 1e-6).all()
    assert (path <= 1 - radius + 1e-6).all()
    # The words: where the first step goes, and the colour at the centre.
    sign = np.sign((path[1] - path[0]).round(9))
    step = np.array(scene.velocity) / 8
    if ((path[0] + step > radius) & (path[0] + step < 1 - radius)).all():
        assert tuple(sign) == DIRECTIONS[scene.direction]
    x, y = (path[3] * 64).astype(int)
    assert tuple(video[:, 3, y, x].tolist()) == COLOURS[scene.colour]
    size = "" if scene.size == "medium" else scene.size + " "
    assert facts["caption"] == f"a {size}{scene.colour} {scene.shape} moves {scene.direction}"
    if scene.path == "straight":
        assert np.allclose(np.diff(path, axis=0), step, atol=1e-5)


def test_bouncing_reflects():
    scene = Scene("circle", "red", "small", "right", "bouncing", (0.5, 0.5), (0.4, 0.0), 0)
    x, speed, expected = 0.5, 0.1, []
    for _ in range(40):  # step by step, against the closed form
        expected.append(x)
        x += speed
        if x > 0.9:
            x, speed = 1.8 - x, -speed
        elif x < 0.1:
            x, speed = 0.2 - x, -speed
    assert np.allclose(positions(scene, 40, 4)[:, 0], expected)


def test_areas_and_variety():
    for shape, area in {"circle": np.pi, "square": 1.7**2, "triangle": 3 * np.sqrt(3) / 4, "diamond": 4 / 3}.items():
        scene = Scene(shape, "white", "large", "left", "straight", (0.5, 0.5), (0.0, 0.0), 0)
        covered = render(scene, 1, 8, 64)[0, 0].float().sum() / 245 / 64**2
        assert covered == pytest.approx(area * SIZES["large"] ** 2, rel=0.02)
    captions = {draw_scene(0, index, 2.0).caption for index in range(2000)}
    assert len(captions) > 600
    assert len(SHAPES) >= 4
    assert len(COLOURS) == 8
    assert len(DIRECTIONS) == 8
