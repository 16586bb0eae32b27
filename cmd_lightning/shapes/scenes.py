"""The procedural world: what a scene holds, and its caption.

Lengths are in sides of the frame, x to the right and y downwards from the top left, and times in frames, so that a
scene is the same at every resolution.
"""

from dataclasses import dataclass
from functools import cache
from typing import Literal

from cmd_lightning.data.plan import stable_hash

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

SPEEDS: dict[Motion, tuple[float, float]] = {  # slowest and fastest shape, in pixels per frame at 64 pixels
    "still": (0.0, 0.0),
    "slow": (0.5, 1.5),
    "middle": (1.5, 3.0),
    "fast": (3.0, 6.0),
    "extreme": (6.0, 12.0),
}
PACES = {"slow": "slowly", "fast": "fast", "extreme": "very fast"}  # what the caption says of it

CAMERA = 1 / 3
"""Speed of the camera over the speed of shapes: a pan of 0.5 to 1 pixel a frame at `middle`; a zoom is slower."""


@dataclass(frozen=True)
class Thing:
    """A shape and how it moves.

    The direction is that of the first frame: a key of DIRECTIONS, "clockwise" or "anticlockwise" of a circular path, or
    "none" of a shape that stands still.
    """

    shape: str
    colour: str
    size: str
    direction: str
    path: str  # one of PATHS, or "still"
    start: Point  # centre in the first frame; of a circular path, the centre of the circle
    speed: float  # of the centre, in sides per frame; of an accelerating path, the mean
    texture: str = "solid"
    turn: float = 0.0  # radius of a circular path
    phase: float = 0.0  # angle on a circular path in the first frame
    spin: float = 0.0  # rotation in radians per frame
    growth: int = 0  # 1 grows, -1 shrinks, 0 neither; back again after a while
    angle: float = 0.0  # rotation in the first frame

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
    """What is behind: one of PATTERNS between two colours, RGB 0 to 255; its period in sides."""

    pattern: str = "flat"
    colours: tuple[tuple[int, int, int], tuple[int, int, int]] = ((0, 0, 0), (0, 0, 0))
    period: float = 1.0
    angle: float = 0.0
    phase: float = 0.0


@dataclass(frozen=True)
class Camera:
    """How the view moves over the world."""

    pan: str = "none"  # or a key of DIRECTIONS
    zoom: int = 0  # 1 zooms in, -1 out
    speed: float = 0.0  # of the pan in sides per frame, and the measure of the zoom


@dataclass(frozen=True)
class Bar:
    """A bar in front of all shapes, from edge to edge, vertical or horizontal."""

    upright: bool
    place: float  # of its middle, along x if upright
    width: float
    tone: int  # grey level, 0 to 255


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
    return frozenset(every[: round(0.2 * len(every))])
