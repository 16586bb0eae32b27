"""Augmentation of training clips: flip, shift, scale, and a background colour that the caption names."""

import random
import re
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from cmd_lightning.data.plan import stable_hash
from cmd_lightning.errors import InputError
from cmd_lightning.viewing import Viewing, colour_of

_SIDES = re.compile(r"\b(left|right)", re.IGNORECASE)


@dataclass(frozen=True)
class Augmentation:
    """What is changed at random in a training clip, the same in all its frames; by default nothing.

    Attributes:
        flip: Mirror half of the clips, except those whose captions have the word left or right.
        shift: Largest move in each direction, as a share of the frame's side, below 1. The last rows and columns are
            repeated where the frame ends.
        scale: Largest change in size, below 1: 0.1 scales by 0.9 to 1.1.
        backgrounds: Colours to choose from for what is behind transparent frames, by the word that the caption gets:
            {blue: "#1e90ff"} adds ", on a blue background". The empty word adds nothing. Without any, and of still
            images, it is that of `viewing`.

    Raises:
        InputError: A number is out of range, or a background is not a colour.
    """

    flip: bool = False
    shift: float = 0.0
    scale: float = 0.0
    backgrounds: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, value in (("shift", self.shift), ("scale", self.scale)):
            if not 0 <= value < 1:
                raise InputError(f"augment.{name} {value}: give a number from 0, and below 1, e.g. 0.1")
        for colour in self.backgrounds.values():
            colour_of(colour)

    def draw(self, draw: int, caption: str) -> "Change":
        """Choose what happens to a clip; `draw` is the seed of its other random choices, too."""
        chance = random.Random(stable_hash("augment", draw))  # start and crop stay what they are without it
        flip = chance.random() < 0.5
        down, across = (chance.uniform(-self.shift, self.shift) for _ in range(2))
        zoom = 1 + chance.uniform(-self.scale, self.scale)
        name, colour = chance.choice(sorted(self.backgrounds.items())) if self.backgrounds else ("", None)
        return Change(self.flip and flip and not _SIDES.search(caption), down, across, zoom, name, colour)


OFF = Augmentation()


@dataclass(frozen=True)
class Change:
    """What happens to one clip: see `Augmentation`."""

    flip: bool
    down: float
    across: float
    zoom: float
    name: str
    colour: str | None

    def view(self, viewing: Viewing) -> Viewing:
        """How frames are decoded: transparent ones over the background that was chosen."""
        return viewing if self.colour is None else replace(viewing, background=self.colour)

    def apply(self, frames: Tensor) -> Tensor:
        """Mirror, scale and move frames (..., H, W); scaling gives more or less of them, for a resize that follows."""
        if (self.down, self.across, self.zoom) != (0, 0, 1):
            for axis, move in ((-2, self.down), (-1, self.across)):
                frames = frames.index_select(axis, _window(frames.shape[axis], self.zoom, move))
        return frames.flip(-1) if self.flip else frames

    def caption(self, caption: str, transparent: bool) -> str:
        """The caption, with the background where the clip shows it; an empty one stays empty."""
        if not (caption and self.name and transparent):
            return caption
        article = "an" if self.name[0].lower() in "aeiou" else "a"
        return f"{caption}, on {article} {self.name} background"


def _window(side: int, zoom: float, move: float) -> Tensor:
    """The rows, or columns, that are shown; those outside of the frame are its first or last."""
    length = max(1, round(side / zoom))
    start = round((side - length) / 2 - move * length)
    return torch.arange(start, start + length).clamp(0, side - 1)
