"""Counting the call of a network that takes a `Condition`."""

import torch
from torch import nn

from cmd_lightning.networks import Condition
from cmd_lightning.networks.counting import Count, count


class Reader(nn.Module):
    def __init__(self):
        super().__init__()
        self.pooled, self.tokens = nn.Linear(7, 3), nn.Linear(7, 5)

    def forward(self, x, condition):
        assert condition.mask is None or condition.mask.device.type == "meta"
        return x + self.pooled(condition.pooled).sum() + self.tokens(condition.tokens).sum()


def test_a_condition_counts_by_its_shapes():
    given = Condition(torch.zeros(2, 7), torch.zeros(2, 4, 7), torch.ones(2, 4, dtype=torch.bool))
    assert count(Reader(), torch.zeros(2), given) == Count(8 * 3 + 8 * 5, 2 * 7 * 3 + 2 * 4 * 7 * 5, 0)
    without = Condition(given.pooled, given.tokens)
    assert count(Reader(), torch.zeros(2), without, call=lambda network, *inputs: network(*inputs)).macs == 322
    assert given.pooled.device.type == given.mask.device.type == "cpu"
