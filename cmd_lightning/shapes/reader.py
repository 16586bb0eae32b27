"""ShapesReader: says what shape, colour and direction a `plain` clip of the procedural world shows."""

from collections.abc import Sequence
from dataclasses import astuple, dataclass

import torch
from torch import Tensor
from torch.nn.functional import silu

from cmd_lightning.errors import InputError
from cmd_lightning.shapes.saved_network import SavedNetwork
from cmd_lightning.shapes.scenes import COLOURS, DIRECTIONS, SHAPES, Scene

ANSWERS = {"shape": (*SHAPES, "none"), "colour": (*COLOURS, "none"), "direction": (*DIRECTIONS, "none")}
"""What the reader can answer to each question; "none" is the last."""


@dataclass(frozen=True)
class Reading:
    """What a clip shows, each one of ANSWERS; the direction is that of the first frames."""

    shape: str
    colour: str
    direction: str

    @property
    def none(self) -> bool:
        """Whether any answer is "none": this is no plain clip."""
        return "none" in astuple(self)

    @classmethod
    def of(cls, scene: Scene) -> "Reading":
        """The right answers for a `plain` scene."""
        thing = scene.things[0]
        return cls(thing.shape, thing.colour, thing.direction)


class ShapesReader(SavedNetwork):
    """Reads `plain` clips of any size of at least 8 frames; made for 16 frames at `slow` to `fast`.

    Trained on rendered `plain` clips of all combinations of shape, colour and direction, clean and as lossy codecs
    leave them. It answers "none": to every question about noise, grey, and clips blurred or noised beyond reading;
    to the direction of frozen, still and time-shuffled clips.

    Args:
        settings: Of the `VideoConvNet`.
    """

    WEIGHTS = "shapes_reader.safetensors"
    ANSWERS = ANSWERS
    chance = 1 / (len(SHAPES) * len(COLOURS) * len(DIRECTIONS))
    """Joint accuracy of a guess among the 256 combinations."""

    def forward(self, video: Tensor) -> dict[str, Tensor]:
        """Logits `(B, N)` of the answers to each question, in the order of ANSWERS; `video` as for `ShapesFeatures`."""
        return self.answer(silu(self.trunk(video)))

    @torch.no_grad()
    def read(self, video: Tensor, batch_size: int = 64) -> list[Reading]:
        """The likeliest answers for each clip; `video` as for `forward`, any number of clips."""
        device = self.trunk.grid.device
        readings = []
        for part in video.split(batch_size):
            logits = self(part.to(device))
            told = [[ANSWERS[name][choice] for choice in logits[name].argmax(1).tolist()] for name in ANSWERS]
            readings += [Reading(*answers) for answers in zip(*told, strict=True)]
        return readings


def joint_accuracy(readings: Sequence[Reading], expected: Sequence[Reading]) -> float:
    """Share of the clips whose shape, colour and direction are all read as expected; see `ShapesReader.chance`."""
    if not readings or len(readings) != len(expected):
        raise InputError(f"readings {len(readings)}, expected {len(expected)}: give as many of both, at least one")
    return sum(map(Reading.__eq__, readings, expected)) / len(readings)
