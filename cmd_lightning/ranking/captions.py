"""Captions that were encoded once: a condition encoder that looks them up."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from cmd_lightning.conditioning import ConditionEncoder, empty_caption
from cmd_lightning.errors import InputError
from cmd_lightning.networks import Condition


class StoredCaptions(ConditionEncoder):
    """A frozen text encoder of a closed set of captions.

    Args:
        dim: Channels K of the condition.
    """

    field = "caption"
    frozen = True
    fingerprint = "stored captions"

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self._rows: dict[str, int] = {}

    @classmethod
    def of(cls, captions: Sequence[str], table: Condition) -> StoredCaptions:
        """The encoder of `captions`, of which row i of `table` is the i-th; the empty caption is one of them."""
        encoder = cls(table.pooled.shape[1])
        encoder._rows = {caption: row for row, caption in enumerate(captions)}
        for name, tensor in vars(table).items():
            encoder.register_buffer(name, tensor, persistent=False)
        return encoder

    def forward(self, values: Sequence[str]) -> Condition:
        if missing := [value for value in values if value not in self._rows]:
            raise InputError(f"caption {missing[0]!r}: it is not among those that were encoded")
        rows = torch.tensor([self._rows[value] for value in values])
        return Condition(self.pooled[rows], self.tokens[rows], self.mask[rows])

    def null(self, count: int) -> Condition:
        return empty_caption(self, count)


@torch.no_grad()
def encode(encoder: ConditionEncoder, captions: Sequence[str], batch_size: int = 64) -> dict[str, Tensor]:
    """What an encoder says of captions: "pooled" (N, K), "tokens" (N, L, K) and "mask" (N, L)."""
    parts = [encoder(list(captions[first : first + batch_size])) for first in range(0, len(captions), batch_size)]
    return {name: torch.cat([getattr(part, name) for part in parts]) for name in ("pooled", "tokens", "mask")}
