"""The procedural world: what a scene holds, and how scenes of each level and speed are drawn.

`draw_scene` is a function of (seed, index) and its options alone. Lengths are in sides of the picture, x to the
right and y downwards from the top left, and times in frames, so that a scene is the same at every resolution.
"""

import math
import random
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, get_args

from cmd_lightning.data.plan import stable_hash
from cmd_lightning.errors import InputError

Level = Literal["plain", "mixed"]
Motion = Literal["still", "slow", "middle", "fast", "extreme"]
Combinations = Literal["all", "seen", "unseen"]
Point = tuple[float, float]

SHAPES = ("circle", "square", "triangle", "diamond")
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
SIZES = {"small": 0.1, "medium": 0.16, "large": 0.24}  # radius
TEXTURES = ("solid", "striped", "checked")
DIRECTIONS = {
    "left": (-1, 0),
    "right": (1, 0),
    "up": (0, -1),
    "down": (0, 1),
    "up left": (-1, -1),
    "up right": (1, -1),
    "down left": (-1, 1),
    "down right": (1, 1),
}
PATHS = ("straight", "bouncing", "accelerating", "circular")
ALIGNMENTS = ("none", "row", "column", "corner")
PATTERNS = ("flat", "gradient", "stripes", "checks", "waves")

SPEEDS: dict[Motion, tuple[float, float]] = {  # slowest and fastest shape, in pixels a frame of a picture of 64
    "still": (0.0, 0.0),
    "slow": (0.5, 1.5),
    "middle": (1.5, 3.0),
    "fast": (3.0, 6.0),
    "extreme": (6.0, 12.0),
}
PACES = {"slow": "slowly", "fast": "fast", "extreme": "very fast"}  # what the caption says of it

CAMERA = 1 / 3
"""Speed of the camera over the speed of shapes: 0.5 to 1 pixel a frame at `middle`."""

UNSEEN_SHARE = 0.2
"""Share of the combinations of shape, colour and direction that training never shows."""


@dataclass(frozen=True)
class Thing:
    """A shape and how it moves.

    Attributes:
        shape: one of SHAPES.
        colour: key of COLOURS.
        size: key of SIZES.
        texture: one of TEXTURES.
        path: one of PATHS, or "still".
        direction: key of DIRECTIONS, of the first frame; "clockwise" or "anticlockwise" of a circular path;
            "none" of a shape that stands still.
        start: where the centre is in the first frame; of a circular path, the centre of the circle.
        speed: of the centre, in sides a frame; of an accelerating path, the mean.
        turn: radius of a circular path, else 0.
        phase: angle on a circular path in the first frame.
        spin: rotation in radians a frame.
        growth: 1 grows, -1 shrinks, 0 neither; back again after a while.
        angle: rotation in the first frame.
    """

    shape: str
    colour: str
    size: str
    direction: str
    path: str
    start: Point
    speed: float
    texture: str = "solid"
    turn: float = 0.0
    phase: float = 0.0
    spin: float = 0.0
    growth: int = 0
    angle: float = 0.0

    @property
    def phrase(self) -> str:
        """For example "a small red striped circle moves up left"; a medium size and a solid texture are not told."""
        words = ["a", self.size, self.colour, self.texture, self.shape]
        moves = {
            "still": "stands still",
            "accelerating": f"speeds up {self.direction}",
            "circular": f"circles {self.direction}",
        }
        words.append(moves.get(self.path, f"moves {self.direction}"))
        words += ["spinning"] * bool(self.spin) + [("", "growing", "shrinking")[self.growth]] * bool(self.growth)
        return " ".join(word for word in words if word not in ("medium", "solid"))


@dataclass(frozen=True)
class Background:
    """What lies behind: a pattern between two colours.

    Attributes:
        pattern: one of PATTERNS.
        colours: the two, RGB 0 to 255.
        period: of the pattern, in sides.
        angle: of the pattern.
        phase: of the pattern.
    """

    pattern: str = "flat"
    colours: tuple[tuple[int, int, int], tuple[int, int, int]] = ((0, 0, 0), (0, 0, 0))
    period: float = 1.0
    angle: float = 0.0
    phase: float = 0.0


@dataclass(frozen=True)
class Camera:
    """How the view moves over the world.

    Attributes:
        pan: key of DIRECTIONS, or "none".
        zoom: 1 zooms in, -1 out, 0 neither.
        speed: of the pan in sides a frame, and the measure of the zoom.
    """

    pan: str = "none"
    zoom: int = 0
    speed: float = 0.0


@dataclass(frozen=True)
class Bar:
    """A bar before all shapes, from edge to edge.

    Attributes:
        upright: whether it stands, or lies.
        place: of its middle, along x if upright.
        width: of the bar.
        tone: grey level, 0 to 255.
    """

    upright: bool
    place: float
    width: float
    tone: int


@dataclass(frozen=True)
class Scene:
    """What is seen; later things lie before earlier ones."""

    level: str
    motion: str
    things: tuple[Thing, ...]
    background: Background
    camera: Camera = Camera()
    bar: Bar | None = None
    alignment: str = "none"

    @property
    def caption(self) -> str:
        """For example "a red circle moves left, a blue square circles clockwise, the camera pans up"."""
        phrases = [thing.phrase for thing in self.things]
        if self.background.pattern != "flat":
            phrases.append(f"before {self.background.pattern}")
        if self.bar:
            phrases.append("behind a bar")
        if self.camera.pan != "none":
            phrases.append(f"the camera pans {self.camera.pan}")
        if self.camera.zoom:
            phrases.append(f"the camera zooms {'in' if self.camera.zoom > 0 else 'out'}")
        if self.motion in PACES:
            phrases.append(PACES[self.motion])
        return ", ".join(phrases)

    @property
    def seen(self) -> bool:
        """Whether training may show it: no shape, colour and direction of it are an unseen combination."""
        return not any((thing.shape, thing.colour, thing.direction) in unseen() for thing in self.things)


@cache
def unseen() -> frozenset[tuple[str, str, str]]:
    """The combinations of shape, colour and direction that training never shows; every pair of two is shown."""
    every = [(shape, colour, direction) for shape in SHAPES for colour in COLOURS for direction in DIRECTIONS]
    every.sort(key=lambda names: stable_hash("unseen", *names))
    return frozenset(every[: round(UNSEEN_SHARE * len(every))])


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
    """Draw the scene of a clip.

    Args:
        seed: of the data set.
        index: of the clip, from 0.
        level: "plain" is one solid shape, straight or bouncing, on a grey, seen by a still camera; "mixed" has one
            to three with textures, further paths, rotation, growth, patterns behind, a bar before, and a moving camera.
        motion: how fast everything moves, see SPEEDS.
        frames: of the clip; straight paths stay inside for so long.
        combinations: of shape, colour and direction that are drawn from; training draws from the "seen". Only plain
            scenes are drawn from the "unseen".
        alignment: of a mixed scene, one of ALIGNMENTS, then with three shapes; drawn if None. In a "row" all shapes
            move along one horizontal line, in a "column" along a vertical one, and at a "corner" the first of three
            shares its row with the second and its column with the third in the first frame.

    Raises:
        InputError: an option is none of its names.
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
    chance = random.Random(stable_hash("scene", seed, index, level, motion))
    low, high = (speed / 64 for speed in SPEEDS[motion])
    steps = max(frames - 1, 1)
    if level == "plain":
        thing = _draw_thing(chance, low, high, steps, combinations, path=chance.choice(["straight", "bouncing"]))
        grey = (chance.randrange(0, 65),) * 3
        return Scene(level, motion, (thing,), Background(colours=(grey, grey)))

    number = chance.choice([1, 2, 3])
    drawn = chance.choices(ALIGNMENTS, [0.55, 0.15, 0.15, 0.15])[0]
    if alignment is None:
        alignment = drawn if number == 3 or (number == 2 and drawn != "corner") else "none"
    else:
        number = 3  # so that alignments differ in nothing else
    colours = chance.sample(list(COLOURS), number)
    things: list[Thing] = []
    for position in range(number):
        along = {"row": ("left", "right"), "column": ("up", "down")}.get(alignment, tuple(DIRECTIONS))
        path = chance.choice(PATHS[:3] if alignment in ("row", "column") else PATHS)
        x = y = None  # of the start, where another thing sets it
        if position and alignment in ("row", "corner") and (alignment == "row" or position == 1):
            y = things[0].start[1]
        if position and alignment in ("column", "corner") and (alignment == "column" or position == 2):
            x = things[0].start[0]
        things.append(
            _draw_thing(chance, low, high, steps, combinations, path, along, colours[position], (x, y), textured=True)
        )
    camera, bar = Camera(), None
    kind = chance.choices(["none", "pan", "zoom"], [0.5, 0.35, 0.15])[0]
    if kind != "none" and high:
        speed = chance.uniform(low, high) * CAMERA
        pan = chance.choice(list(DIRECTIONS)) if kind == "pan" else "none"
        camera = Camera(pan, chance.choice([-1, 1]) if kind == "zoom" else 0, speed)
    if chance.random() < 0.25:
        bar = Bar(chance.random() < 0.5, chance.uniform(0.2, 0.8), chance.uniform(0.1, 0.2), chance.randrange(90, 150))
    dark, light = (tuple(chance.randrange(*levels) for _ in range(3)) for levels in ((0, 50), (30, 110)))
    background = Background(
        chance.choice(PATTERNS),
        (dark, light),
        period=chance.uniform(0.3, 0.8),
        angle=chance.uniform(0, math.pi),
        phase=chance.random(),
    )
    return Scene(level, motion, tuple(things), background, camera, bar, alignment)


def _draw_thing(
    chance: random.Random,
    low: float,
    high: float,
    steps: int,
    combinations: Combinations,
    path: str,
    directions: tuple[str, ...] = tuple(DIRECTIONS),
    colour: str | None = None,
    given: tuple[float | None, float | None] = (None, None),
    textured: bool = False,
) -> Thing:
    size = chance.choice(list(SIZES))
    radius = SIZES[size]
    room = 1 - 2 * radius  # the centre stays between radius and 1 - radius
    shape, colour, direction = _draw_names(chance, combinations, colour, directions)
    extra: dict[str, Any] = {}
    if textured:
        rate = (low + high) / 2 * 64  # pixels a frame
        extra = {
            "texture": chance.choice(TEXTURES),
            "spin": chance.choice([0.0, 0.0, 1.0, -1.0]) * rate * math.radians(2.5),
            "growth": chance.choice([0, 0, 0, 1, -1]) if rate else 0,
            "angle": chance.uniform(0, 2 * math.pi),
        }
    if not high:
        start = tuple(radius + chance.random() * room if x is None else x for x in given)
        return Thing(shape, colour, size, "none", "still", start, 0.0, **extra)
    if path == "circular":
        turn = chance.uniform(0.1, 0.2)
        start = tuple(chance.uniform(0.3, 0.7) if x is None else x for x in given)
        turning = chance.choice(["clockwise", "anticlockwise"])
        speed = chance.uniform(low, high)
        return Thing(
            shape, colour, size, turning, path, start, speed, turn=turn, phase=chance.uniform(0, 2 * math.pi), **extra
        )

    signs = DIRECTIONS[direction]
    scale = math.hypot(*signs)  # speed over its part along an axis
    if path != "bouncing":
        fastest = min(high, room / steps * scale)
        if fastest < low:
            path = "bouncing" if path == "straight" else path
        else:
            high = fastest
    speed = chance.uniform(low, high)
    step = speed / scale
    start = []
    for sign, place in zip(signs, given, strict=True):
        ahead = chance.random() * room  # way to the first wall
        if sign and path == "bouncing":
            # The first frames show the direction that the caption tells, and there is a wall on the way.
            nearest = min(room / 2, 5 * step)
            ahead = chance.uniform(nearest, max(nearest, min(room, 0.9 * step * steps)))
        elif sign:
            ahead = chance.uniform(min(room, step * steps), room)
        start.append((1 - radius - ahead if sign > 0 else radius + ahead) if place is None else place)
    return Thing(shape, colour, size, direction, path, (*start,), speed, **extra)


def _draw_names(
    chance: random.Random, combinations: Combinations, colour: str | None, directions: tuple[str, ...]
) -> tuple[str, str, str]:
    while True:
        names = (chance.choice(SHAPES), colour or chance.choice(list(COLOURS)), chance.choice(directions))
        if combinations == "all" or (names in unseen()) == (combinations == "unseen"):
            return names
