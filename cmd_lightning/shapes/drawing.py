"""How scenes of each level and speed are drawn: a function of (seed, index) and the options alone."""

import math
import random
from dataclasses import replace
from typing import Any, get_args

from cmd_lightning.data.plan import stable_hash
from cmd_lightning.errors import InputError
from cmd_lightning.shapes.scenes import (
    ALIGNMENTS,
    CAMERA,
    COLOURS,
    DIRECTIONS,
    PATHS,
    PATTERNS,
    SHAPES,
    SIZES,
    SPEEDS,
    TEXTURES,
    Background,
    Bar,
    Camera,
    Combinations,
    Level,
    Motion,
    Scene,
    Thing,
    unseen,
)


def draw_scene(
    seed: int,
    index: int,
    *,
    level: Level = "plain",
    motion: Motion = "middle",
    frames: int = 16,
    combinations: Combinations = "all",
    alignment: str | None = None,
) -> Scene:
    """Sample the scene of clip `index` of the data set `seed`.

    A "plain" one is one solid shape, straight or bouncing, on a grey, seen by a still camera; a "mixed" one has one to
    three with textures, further paths, rotation, growth, patterns behind, a bar before, and a moving camera. Straight
    paths stay inside for `frames`. Training samples from the "seen" combinations of shape, colour and direction; only
    plain scenes are sampled from the "unseen".

    The alignment of a mixed scene is sampled if None. In a "row" all shapes move along one horizontal line, in a
    "column" along a vertical one, and at a "corner" the first of three shares its row with the second and its column
    with the third in the first frame. Where it is given, all scenes have three shapes that move along one axis, so that
    alignments differ in nothing else.

    Raises:
        InputError: An option has an unknown value.
    """
    for name, given, known in (
        ("level", level, get_args(Level)),
        ("motion", motion, get_args(Motion)),
        ("combinations", combinations, get_args(Combinations)),
        ("alignment", alignment, (None, *ALIGNMENTS)),
    ):
        if given not in known:
            raise InputError(f"{name} {given}: give one of {', '.join(map(str, known))}")
    if combinations == "unseen" and level != "plain":  # a colour and a line of two directions may have none
        raise InputError(f"combinations unseen: not of level {level}; give level plain")
    draw = _Draw(random.Random(stable_hash("scene", seed, index, level, motion)), motion, frames, combinations)
    if level == "mixed":
        return draw.mixed(alignment)
    thing = draw.thing(path=draw.chance.choice(["straight", "bouncing"]))
    grey = (draw.chance.randrange(0, 65),) * 3
    return Scene(level, motion, (thing,), Background(colours=(grey, grey)))


ALONG = {"row": ("left", "right"), "column": ("up", "down")}
"""Directions in which things stay on the line that they share."""


def aligned(things: tuple[Thing, ...], alignment: str) -> tuple[Thing, ...]:
    """Things put onto the lines that they share, which leave room to the walls for the largest on them."""
    members = {"row": {1: things}, "column": {0: things}, "corner": {1: things[:2], 0: (things[0], *things[2:])}}
    starts = {id(thing): list(thing.start) for thing in things}
    for axis, sharing in members.get(alignment, {}).items():
        radius = max(SIZES[thing.size] for thing in sharing)
        line = min(max(things[0].start[axis], radius), 1 - radius)
        for thing in sharing:
            starts[id(thing)][axis] = line
    return tuple(replace(thing, start=(starts[id(thing)][0], starts[id(thing)][1])) for thing in things)


class _Draw:
    """The draws of one scene, in a fixed order: another order would be other clips under the same numbers."""

    def __init__(self, chance: random.Random, motion: Motion, frames: int, combinations: Combinations) -> None:
        self.chance, self.motion, self.combinations = chance, motion, combinations
        self.low, self.high = (speed / 64 for speed in SPEEDS[motion])
        self.steps = max(frames - 1, 1)

    def mixed(self, alignment: str | None) -> Scene:
        """A mixed scene."""
        chance = self.chance
        number = chance.choice([1, 2, 3])
        drawn = chance.choices(ALIGNMENTS, [0.55, 0.15, 0.15, 0.15])[0]
        if alignment is None:
            alignment = drawn if number == 3 or (number == 2 and drawn != "corner") else "none"
            things = self.things(number, ALONG.get(alignment, tuple(DIRECTIONS)), circular=alignment == "none")
        else:
            along = ALONG.get(alignment) or ALONG[chance.choice(list(ALONG))]
            things = self.things(3, along, circular=False)
        things = aligned(things, alignment)
        camera, bar = self.camera(), None
        if chance.random() < 0.25:
            upright, place = chance.random() < 0.5, chance.uniform(0.2, 0.8)
            bar = Bar(upright, place, chance.uniform(0.1, 0.2), chance.randrange(90, 150))
        dark, light = self.tone(0, 50), self.tone(30, 110)
        background = Background(
            chance.choice(PATTERNS),
            (dark, light),
            period=chance.uniform(0.3, 0.8),
            angle=chance.uniform(0, math.pi),
            phase=chance.random(),
        )
        return Scene("mixed", self.motion, things, background, camera, bar, alignment)

    def things(self, number: int, directions: tuple[str, ...], circular: bool) -> tuple[Thing, ...]:
        """Things of different colours, some on circles if they may be."""
        colours = self.chance.sample(list(COLOURS), number)
        paths = PATHS if circular else tuple(path for path in PATHS if path != "circular")
        return tuple(self.thing(self.chance.choice(paths), directions, colour, textured=True) for colour in colours)

    def thing(
        self,
        path: str,
        directions: tuple[str, ...] = tuple(DIRECTIONS),
        colour: str | None = None,
        textured: bool = False,
    ) -> Thing:
        """A thing on a path; `colour` is drawn if it is not given."""
        chance = self.chance
        size = chance.choice(list(SIZES))
        shape, colour, direction = self.names(colour, directions)
        extra = self.texture() if textured else {}
        radius = SIZES[size]
        room = 1 - 2 * radius  # the centre stays between radius and 1 - radius
        if not self.high:
            start = (radius + chance.random() * room, radius + chance.random() * room)
            return Thing(shape, colour, size, "none", "still", start, 0.0, **extra)
        if path == "circular":
            extra["turn"] = chance.uniform(0.1, 0.2)
            start = (chance.uniform(0.3, 0.7), chance.uniform(0.3, 0.7))
            turning = chance.choice(["clockwise", "anticlockwise"])
            speed = chance.uniform(self.low, self.high)
            extra["phase"] = chance.uniform(0, 2 * math.pi)
            return Thing(shape, colour, size, turning, path, start, speed, **extra)

        signs = DIRECTIONS[direction]
        scale = math.hypot(*signs)  # speed over its part along an axis
        fastest = self.high if path == "bouncing" else min(self.high, room / self.steps * scale)
        if fastest < self.low:
            fastest = self.high
            path = "bouncing" if path == "straight" else path
        speed = chance.uniform(self.low, fastest)
        step = speed / scale
        begin = []
        for sign in signs:
            ahead = chance.random() * room  # way to the first wall
            if sign and path == "bouncing":
                # The first frames show the direction that the caption tells, and there is a wall on the way.
                nearest = min(room / 2, 5 * step)
                ahead = chance.uniform(nearest, max(nearest, min(room, 0.9 * step * self.steps)))
            elif sign:
                ahead = chance.uniform(min(room, step * self.steps), room)
            begin.append(1 - radius - ahead if sign > 0 else radius + ahead)
        return Thing(shape, colour, size, direction, path, (begin[0], begin[1]), speed, **extra)

    def names(self, colour: str | None, directions: tuple[str, ...]) -> tuple[str, str, str]:
        """Shape, colour and direction, of the combinations to sample from."""
        while True:
            shape = self.chance.choice(SHAPES)
            names = (shape, colour or self.chance.choice(list(COLOURS)), self.chance.choice(directions))
            if self.combinations == "all" or (names in unseen()) == (self.combinations == "unseen"):
                return names

    def texture(self) -> dict[str, Any]:
        """Texture, rotation and growth of a thing."""
        rate = (self.low + self.high) / 2 * 64  # pixels per frame
        return {
            "texture": self.chance.choice(TEXTURES),
            "spin": self.chance.choice([0.0, 0.0, 1.0, -1.0]) * rate * math.radians(2.5),
            "growth": self.chance.choice([0, 0, 0, 1, -1]) if rate else 0,
            "angle": self.chance.uniform(0, 2 * math.pi),
        }

    def tone(self, low: int, high: int) -> tuple[int, int, int]:
        """A colour of the background, of these levels."""
        return self.chance.randrange(low, high), self.chance.randrange(low, high), self.chance.randrange(low, high)

    def camera(self) -> Camera:
        """A camera that stands, pans or zooms."""
        kind = self.chance.choices(["none", "pan", "zoom"], [0.5, 0.35, 0.15])[0]
        if kind == "none" or not self.high:
            return Camera()
        speed = self.chance.uniform(self.low, self.high) * CAMERA
        pan = self.chance.choice(list(DIRECTIONS)) if kind == "pan" else "none"
        return Camera(pan, self.chance.choice([-1, 1]) if kind == "zoom" else 0, speed)
