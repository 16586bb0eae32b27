"""What networks hand to each other: the shapes of latents, and encoded conditions."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from cmd_lightning.errors import InputError


@dataclass(frozen=True)
class LatentSpec:
    """The shapes that an autoencoder gives one video; content and motion models are built from it.

    Args:
        content: Shape `(C, H, W)` of the content frame.
        motion: Shape `(D, T, S)` of the motion latent: channels, frames, motion slots per frame.
        slots: One coordinate tuple for each of the S slots; the first coordinate is the kind of the slot, the others
            are positions in [0, 1] of the content frame. Kind 0 is a row, `(0, y)`; 1 a column, `(1, x)`; 2 a cell of a
            grid, `(2, y, x)`; any other kind is about the whole frame, and its positions mean what they will.

    Examples:
        A clip of 16 frames of 32×32 pixels, with motion on a grid of 2×2 cells per frame:

        >>> from cmd_lightning.networks import LatentSpec
        >>> cells = tuple((2.0, y, x) for y in (0.25, 0.75) for x in (0.25, 0.75))
        >>> spec = LatentSpec(content=(3, 32, 32), motion=(8, 16, 4), slots=cells)
        >>> LatentSpec.of(spec.to_dict()) == spec
        True
    """

    content: tuple[int, int, int]
    motion: tuple[int, int, int]
    slots: tuple[tuple[float, ...], ...]

    def __post_init__(self) -> None:
        if len(self.slots) != self.motion[2]:
            raise InputError(f"LatentSpec: {len(self.slots)} slot coordinates for {self.motion[2]} motion slots")

    def to_dict(self) -> dict[str, Any]:
        """This spec as plain data, for a config file."""
        return asdict(self)

    @classmethod
    def of(cls, value: LatentSpec | dict[str, Any]) -> LatentSpec:
        """A spec from itself or from the plain data of `to_dict`, lists or tuples."""
        if isinstance(value, LatentSpec):
            return value
        slots = tuple(tuple(slot) for slot in value["slots"])
        return cls(tuple(value["content"]), tuple(value["motion"]), slots)

    def reaching_into(self, mask: Tensor) -> Tensor:
        """Which motion slots are about a part of the frame, `(S,)` bool.

        Args:
            mask: The part, `(H, W)` bool, of any size. Rows and columns are about it if they cross it, cells if they
                touch it; slots about the whole frame always are.
        """
        axes = {0.0: (0,), 1.0: (1,), 2.0: (0, 1)}  # those of the frame along which a kind of slots has places
        places = {kind: [slot[1:] for slot in self.slots if slot[0] == kind] for kind in axes}
        reached = []
        for kind, *place in self.slots:
            part = mask
            for number, axis in enumerate(axes.get(kind, ())):
                half = 0.5 / len({own[number] for own in places[kind]})
                size = mask.shape[axis]
                # Rounded first: a place is a rational number, and its edge must not reach into the next pixel.
                start, end = (round(size * edge, 6) for edge in (place[number] - half, place[number] + half))
                part = part.narrow(axis, math.floor(start), math.ceil(end) - math.floor(start))
            reached.append(part.any())
        return torch.stack(reached)

    @property
    def packed(self) -> tuple[int, int]:
        """The shape `(C, H * W + T * S)` of the packed latents of one video."""
        return self.content[0], math.prod(self.content[1:]) + math.prod(self.motion[1:])

    @staticmethod
    def pack(content: Tensor, motion: Tensor) -> Tensor:
        """Content frames `(B, C, H, W)` and motion latents `(B, C, T, S)` as one, `(B, C, H * W + T * S)`."""
        return torch.cat([content.flatten(2), motion.flatten(2)], dim=2)

    def unpack(self, planes: Tensor) -> tuple[Tensor, Tensor]:
        """Undoes `pack`."""
        points = math.prod(self.content[1:])
        content, motion = planes.split([points, planes.shape[2] - points], dim=2)
        return content.unflatten(2, self.content[1:]), motion.unflatten(2, self.motion[1:])


@dataclass(frozen=True)
class Condition:
    """What a sample is generated from, encoded; the null condition has the same shapes.

    Args:
        pooled: `(B, K)`.
        tokens: `(B, L, K)`, or None where there is only a pooled vector.
        mask: `(B, L)` bool, True for real tokens, or None where all are.

    Examples:
        >>> import torch
        >>> from cmd_lightning.networks import Condition
        >>> condition = Condition(pooled=torch.zeros(2, 8), tokens=torch.zeros(2, 5, 8))
        >>> len(condition.repeat(3)), condition[:1].tokens.shape, Condition(torch.zeros(2, 8)).sequence().shape
        (6, torch.Size([1, 5, 8]), torch.Size([2, 1, 8]))
    """

    pooled: Tensor
    tokens: Tensor | None = None
    mask: Tensor | None = None

    def map(self, function: Callable[[Tensor], Tensor]) -> Condition:
        """A condition with `function` applied to every tensor that is there."""
        return Condition(**{name: function(x) for name, x in vars(self).items() if x is not None})

    def __len__(self) -> int:
        """The number of samples."""
        return len(self.pooled)

    def __getitem__(self, samples: slice) -> Condition:
        """The condition of some of the samples."""
        return self.map(lambda x: x[samples])

    def repeat(self, times: int) -> Condition:
        """The condition of each sample `times` times in a row."""
        return self.map(lambda x: x.repeat_interleave(times, dim=0))

    def combine(self, other: Condition, function: Callable[[Tensor, Tensor], Tensor]) -> Condition:
        """A condition with `function(mine, other's)` for every tensor that is there."""
        mine = {name: x for name, x in vars(self).items() if x is not None}
        return Condition(**{name: function(x, getattr(other, name)) for name, x in mine.items()})

    def sequence(self) -> Tensor:
        """The tokens, or the pooled vector as the only one, `(B, L, K)`."""
        return self.pooled[:, None] if self.tokens is None else self.tokens
