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
        captions: The captions, with the empty one.
        table: Their conditions, a row for each.
    """

    field = "caption"
    frozen = True
    fingerprint = "stored captions"
    pooled: Tensor
    tokens: Tensor
    mask: Tensor

    def __init__(self, captions: Sequence[str], table: Condition) -> None:
        super().__init__()
        self.dim = table.pooled.shape[1]
        self._rows = {caption: row for row, caption in enumerate(captions)}
        for name, tensor in vars(table).items():
            self.register_buffer(name, tensor, persistent=False)

    def forward(self, values: Sequence[str]) -> Condition:
        if missing := [value for value in values if value not in self._rows]:
            raise InputError(f"caption {missing[0]!r}: it is not among those that were encoded")
        rows = torch.tensor([self._rows[value] for value in values])
        return Condition(self.pooled[rows], self.tokens[rows], self.mask[rows])

    def null(self, count: int) -> Condition:
        return empty_caption(self, count)
