from collections import Counter
from itertools import product

import numpy as np
import pytest

from cmd_lightning.errors import InputError
from cmd_lightning.shapes.drawing import draw_scene
from cmd_lightning.shapes.painting import centres, positions, view
from cmd_lightning.shapes.scenes import (
    COLOURS,
    DIRECTIONS,
    PATHS,
    PATTERNS,
    SHAPES,
    SIZES,
    TEXTURES,
    Camera,
    Scene,
    Thing,
    unseen,
)

FRAMES = 16


def scenes(number, **options):
    return [draw_scene(0, index, frames=FRAMES, **options) for index in range(number)]


def names(thing):
    return thing.shape, thing.colour, thing.direction


def step_lengths(path):
    """In pixels of a frame of 64."""
    return np.linalg.norm(np.diff(path, axis=0), axis=1) * 64


def test_a_scene_is_a_function_of_seed_and_index():
    for level in ("plain", "mixed"):
        assert draw_scene(1, 2, level=level) == draw_scene(1, 2, level=level)
        assert len({str(draw_scene(seed, index, level=level)) for seed in (0, 1) for index in range(50)}) == 100


def test_a_fifth_is_unseen_but_every_pair_is_seen():
    every = set(product(SHAPES, COLOURS, DIRECTIONS))
    assert len(every) == 256
    assert len(unseen()) == 51
    assert unseen() < every
    seen = every - unseen()
    for first, second in ((0, 1), (0, 2), (1, 2)):
        pairs = {(entry[first], entry[second]) for entry in seen}
        assert pairs == {(entry[first], entry[second]) for entry in every}


def test_training_never_shows_the_unseen_and_all_shows_all():
    assert {names(scene.things[0]) for scene in scenes(6000)} == set(product(SHAPES, COLOURS, DIRECTIONS))
    assert {names(scene.things[0]) for scene in scenes(800, combinations="unseen")} == unseen()
    for level in ("plain", "mixed"):
        shown = scenes(1500, level=level, combinations="seen")
        assert not {names(thing) for scene in shown for thing in scene.things} & unseen()
        assert all(scene.seen for scene in shown)
    mixed = scenes(300, level="mixed")
    assert {scene.seen for scene in mixed} == {True, False}
    assert all(scene.seen != any(names(thing) in unseen() for thing in scene.things) for scene in mixed)


@pytest.mark.parametrize(
    ("motion", "low", "high"), [("slow", 0.5, 1.5), ("middle", 1.5, 3), ("fast", 3, 6), ("extreme", 6, 12)]
)
def test_speeds_are_in_their_ranges(motion, low, high):
    cameras = []
    for scene in scenes(300, level="plain", motion=motion) + scenes(300, level="mixed", motion=motion):
        for thing in scene.things:
            steps = step_lengths(centres(thing, FRAMES))
            if thing.path == "accelerating" or thing.path == "circular":
                steps = np.array([thing.speed * 64])  # the mean over time, and along the arc
            elif motion != "extreme":  # not the few steps that turn at a wall
                steps = np.quantile(steps, [0.7, 0.9])
            else:
                steps = np.array([steps.max()])
            assert (steps > low * 0.999).all()
            assert (steps < high * 1.001).all()
        if scene.camera.pan != "none":
            axes = np.abs(np.array(DIRECTIONS[scene.camera.pan])).max()
            shift = np.abs(np.diff(view(scene, FRAMES)[0], axis=0)).max() * 64 / axes
            assert low / 3 * 0.999 < shift < high / 3 * 1.001
        cameras.append(scene.camera != Camera())
    assert 0.3 < np.mean(cameras[300:]) < 0.7
    assert not any(cameras[:300])


def test_accelerating_goes_from_slow_to_fast_with_its_mean_speed():
    thing = Thing("circle", "red", "small", "right", "accelerating", (0.1, 0.5), 0.03)
    steps = step_lengths(centres(thing, FRAMES)) / 64
    assert (np.diff(steps) > 0).all()
    assert steps.mean() == pytest.approx(0.03)
    assert steps[-1] > 2.5 * steps[0]


@pytest.mark.parametrize("level", ["plain", "mixed"])
def test_nothing_moves_when_still(level):
    for scene in scenes(100, level=level, motion="still"):
        assert scene.camera == Camera()
        assert "stands still" in scene.caption
        assert np.ptp(positions(scene, FRAMES), axis=1).max() == 0


def test_plain_is_plain():
    for scene in scenes(300, level="plain"):
        (thing,) = scene.things
        assert scene.background.pattern == "flat"
        assert len(set(scene.background.colours[0])) == 1
        assert (scene.camera, scene.bar, thing.texture, thing.spin, thing.growth) == (Camera(), None, "solid", 0, 0)
        path = centres(thing, FRAMES)
        radius = SIZES[thing.size]
        assert (path >= radius - 1e-9).all()
        assert (path <= 1 - radius + 1e-9).all()
        assert tuple(np.sign(np.diff(path, axis=0)[0].round(9))) == DIRECTIONS[thing.direction]
        turns = np.ptp(np.sign(np.diff(path, axis=0).round(9)), axis=0).any()
        assert turns == (thing.path == "bouncing")
        size = "" if thing.size == "medium" else thing.size + " "
        assert scene.caption == f"a {size}{thing.colour} {thing.shape} moves {thing.direction}"


def test_mixed_shows_everything_there_is():
    mixed = scenes(500, level="mixed")
    things = [thing for scene in mixed for thing in scene.things]
    assert {thing.path for thing in things} == set(PATHS)
    assert {thing.texture for thing in things} == set(TEXTURES)
    assert {thing.shape for thing in things} == set(SHAPES)
    assert {thing.colour for thing in things} == set(COLOURS)
    assert {thing.direction for thing in things} == {*DIRECTIONS, "clockwise", "anticlockwise"}
    assert {np.sign(thing.spin) for thing in things} == {-1, 0, 1}
    assert {thing.growth for thing in things} == {-1, 0, 1}
    assert {scene.background.pattern for scene in mixed} == set(PATTERNS)
    assert {scene.camera.pan for scene in mixed} == {*DIRECTIONS, "none"}
    assert {scene.camera.zoom for scene in mixed} == {-1, 0, 1}
    assert {scene.bar.upright for scene in mixed if scene.bar} == {True, False}
    assert set(Counter(len(scene.things) for scene in mixed)) == {1, 2, 3}
    assert all(len({thing.colour for thing in scene.things}) == len(scene.things) for scene in mixed)
    assert len({scene.caption for scene in mixed}) > 490


def test_captions_tell_what_there_is():
    things = (
        Thing("circle", "red", "small", "clockwise", "circular", (0.5, 0.5), 0.02, "striped", spin=0.1, growth=1),
        Thing("square", "blue", "medium", "none", "still", (0.5, 0.5), 0.0),
        Thing("diamond", "pink", "large", "up left", "accelerating", (0.5, 0.5), 0.02, growth=-1),
    )
    scene = draw_scene(0, 0)
    message = Scene("mixed", "middle", things, scene.background, Camera("down", 0, 0.01), None)
    assert message.caption == (
        "a small red striped circle circles clockwise spinning growing, a blue square stands still, "
        "a large pink diamond speeds up up left shrinking, the camera pans down"
    )


@pytest.mark.parametrize("motion", ["still", "middle", "extreme"])
def test_aligned_shapes_share_rows_and_columns(motion):
    places = {
        alignment: [positions(scene, FRAMES) for scene in scenes(60, level="mixed", motion=motion, alignment=alignment)]
        for alignment in ("none", "row", "column", "corner")
    }
    assert all(len(place) == 3 for found in places.values() for place in found)
    for place in places["row"]:
        assert np.ptp(place[:, :, 1], axis=0).max() < 1e-9
    for place in places["column"]:
        assert np.ptp(place[:, :, 0], axis=0).max() < 1e-9
    for first, second, third in places["corner"]:
        assert first[0, 1] == pytest.approx(second[0, 1], abs=1e-9)
        assert first[0, 0] == pytest.approx(third[0, 0], abs=1e-9)
    assert sum(np.ptp(place[:, 0], axis=0).min() < 0.02 for place in places["none"]) < 20


def test_given_alignments_differ_in_nothing_else():
    for alignment in ("none", "corner"):
        along = Counter(
            frozenset("across" if thing.direction in ("left", "right") else "down" for thing in scene.things)
            for scene in scenes(60, level="mixed", alignment=alignment)
        )
        assert set(along) == {frozenset(["across"]), frozenset(["down"])}
        assert {t.path for scene in scenes(60, level="mixed", alignment=alignment) for t in scene.things} == {
            "straight",
            "bouncing",
            "accelerating",
        }


def test_drawn_alignments():
    for scene in scenes(300, level="mixed"):
        place = positions(scene, FRAMES)
        if scene.alignment in ("row", "column"):
            axis = 1 if scene.alignment == "row" else 0
            assert np.ptp(place[:, :, axis], axis=0).max() < 1e-9
    drawn = Counter(scene.alignment for scene in scenes(1000, level="mixed"))
    assert set(drawn) == {"none", "row", "column", "corner"}
    assert drawn["none"] > 500


@pytest.mark.parametrize(
    "options",
    [
        {"level": "plane"},
        {"motion": "medium"},
        {"combinations": "new"},
        {"alignment": "diagonal"},
        {"level": "mixed", "combinations": "unseen"},
    ],
)
def test_a_wrong_name_is_an_error(options):
    with pytest.raises(InputError, match="give"):
        draw_scene(0, 0, **options)
