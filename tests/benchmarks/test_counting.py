"""The counter against sums by hand, and every network of the paper's set-ups against the derived counts."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.counting import Count, count, table
from cmd_lightning.networks.attention import Attention, time_angles


def test_linear_layers_and_convolutions_by_hand():
    # 2 x 5 rows of 7 numbers to 3; biases are additions.
    assert count(nn.Linear(7, 3), torch.zeros(2, 5, 7)) == Count(7 * 3 + 3, 2 * 5 * 7 * 3, 0)
    layer = nn.Conv2d(4, 6, (3, 2), stride=2)
    out = layer(torch.zeros(2, 4, 9, 8)).shape
    assert count(layer, torch.zeros(2, 4, 9, 8)) == Count(4 * 6 * 6 + 6, out.numel() * 4 * 3 * 2, 0)
    back = nn.ConvTranspose2d(4, 6, 2, stride=2)  # each point of the input meets the whole kernel
    assert count(back, torch.zeros(1, 4, 3, 5)).products == 3 * 5 * 4 * 6 * 2 * 2


@pytest.mark.parametrize("positions", [False, True])
def test_attention_by_hand(positions):
    batch, tokens, width, heads, head_dim = 3, 5, 24, 2, 8
    angles = (time_angles(tokens, head_dim, torch.device("meta")),) if positions else ()
    found = count(Attention(width, heads, head_dim), torch.zeros(batch, tokens, width), *angles)
    inner = heads * head_dim
    assert found.products == batch * tokens * width * inner * 4
    assert found.attention == batch * tokens**2 * inner * 2
    assert found.parameters == 4 * width * inner + width
    assert found.macs == found.products + found.attention


def test_attention_written_out_is_attention():
    q = torch.zeros(2, 4, 6, 8, device="meta")
    fused = count(nn.Identity(), q, call=lambda _, x: F.scaled_dot_product_attention(x, x, x))
    by_hand = count(nn.Identity(), q, call=lambda _, x: (x @ x.mT).softmax(-1) @ x)
    assert fused == by_hand == Count(0, 0, 2 * 2 * 4 * 6 * 6 * 8)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("learned", [True, False])
def test_a_linear_layer_is_none_however_its_input_lies_in_memory(bias, learned):
    layer = nn.Linear(7, 3, bias=bias).requires_grad_(learned)
    with torch.no_grad():  # here torch itself makes a batched product of it
        found = count(layer, torch.zeros(7, 5, 2).permute(2, 1, 0))
    assert (found.products, found.attention) == (2 * 5 * 7 * 3, 0)


def test_a_count_leaves_the_network_and_its_inputs_alone():
    network = nn.BatchNorm1d(3)
    x = torch.randn(4, 3)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    count(network, x)
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert network.weight.device.type == x.device.type == "cpu"


def test_table():
    assert table({"a": Count(47_300_000, 773 * 10**9, 27 * 10**9)}).splitlines()[2] == "| a | 47.3 | 0.7730 | 0.8000 |"
