import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from cmd_lightning.networks.attention import GEGLU, Attention, rotate, space_angles, time_angles


def rotated_by_hand(x, angles):
    """The rotation of one vector, pair by pair, with sines and cosines."""
    out = list(x)
    for i, angle in enumerate(angles):
        a, b = x[2 * i], x[2 * i + 1]
        out[2 * i] = a * math.cos(angle) - b * math.sin(angle)
        out[2 * i + 1] = a * math.sin(angle) + b * math.cos(angle)
    return out


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("kept", [0, 2, 4])
def test_rotation_is_the_formula_and_leaves_the_other_channels(kept, compiled, monkeypatch):
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: compiled)
    x = torch.randn(5, 6 + kept)
    angles = torch.randn(5, 3)
    expected = [rotated_by_hand(row, angle) for row, angle in zip(x.tolist(), angles.tolist(), strict=True)]
    torch.testing.assert_close(rotate(x, angles), torch.tensor(expected))


def test_rotation_keeps_norms():
    x = torch.randn(2, 3, 35, 12)
    for angles in (space_angles(5, 7, 12), time_angles(35, 12)):
        torch.testing.assert_close(rotate(x, angles).norm(dim=-1), x.norm(dim=-1))


def test_products_depend_on_the_distance_in_time_alone():
    angles = time_angles(24, 16)
    query, key = torch.randn(2, 16)
    products = rotate(query.expand(24, -1), angles) @ rotate(key.expand(24, -1), angles).T
    for distance in range(-23, 24):
        diagonal = products.diagonal(distance)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal), atol=1e-4, rtol=1e-4)
    assert products[0].std() > 0.01


def test_products_depend_on_the_step_in_space_alone():
    height, width = 4, 6
    angles = space_angles(height, width, 16)
    query, key = torch.randn(2, 16)
    queries = rotate(query.expand(height * width, -1), angles).unflatten(0, (height, width))
    keys = rotate(key.expand(height * width, -1), angles).unflatten(0, (height, width))
    for down in range(3):
        for right in range(5):
            product = (queries[: height - down, : width - right] * keys[down:, right:]).sum(-1)
            torch.testing.assert_close(product, product[:1, :1].expand_as(product), atol=1e-4, rtol=1e-4)
    one_down = (queries[0, 0] * keys[1, 0]).sum()
    one_right = (queries[0, 0] * keys[0, 1]).sum()
    assert abs(one_down - one_right) > 1e-3  # rows and columns are told apart


def test_angles_of_time():
    expected = [[t / 10_000 ** (i / 3) for i in range(3)] for t in range(5)]
    torch.testing.assert_close(time_angles(5, 6), torch.tensor(expected))
    assert time_angles(1, 6).abs().max() == 0


@pytest.mark.parametrize(("height", "width"), [(3, 5), (5, 2), (1, 4)])
def test_angles_of_space_run_from_minus_one_to_one_row_by_row(height, width):
    def place(i, n):
        return -1 + 2 * i / (n - 1) if n > 1 else -1

    frequencies = [math.pi * f for f in (1, 3, 5)]
    expected = [
        [place(y, height) * f for f in frequencies] + [place(x, width) * f for f in frequencies]
        for y in range(height)
        for x in range(width)
    ]
    torch.testing.assert_close(space_angles(height, width, 12), torch.tensor(expected))


@pytest.mark.parametrize("bias", [True, False])
def test_attention_is_torchs_multi_head_attention(bias):
    attention = Attention(12, heads=3, head_dim=4, qkv_bias=bias)
    reference = nn.MultiheadAttention(12, 3, bias=bias, batch_first=True)
    with torch.no_grad():
        reference.in_proj_weight.copy_(attention.qkv.weight)
        reference.out_proj.weight.copy_(attention.out.weight)
        if bias:
            reference.in_proj_bias.copy_(attention.qkv.bias)
            reference.out_proj.bias.copy_(attention.out.bias)
        else:
            attention.out.bias.zero_()
    x = torch.randn(2, 7, 12)
    torch.testing.assert_close(attention(x), reference(x, x, x, need_weights=False)[0])


def test_rotary_attention_rotates_queries_and_keys_but_not_values():
    heads, dim, tokens = 2, 6, 5
    attention = Attention(10, heads, dim)
    angles = time_angles(tokens, dim)
    x = torch.randn(1, tokens, 10)
    query, key, value = (attention.qkv.weight @ x[0].T).T.reshape(tokens, 3, heads, dim).unbind(1)
    out = torch.zeros(tokens, heads, dim)
    for head in range(heads):
        turned = [
            torch.tensor([rotated_by_hand(v, a) for v, a in zip(z[:, head].tolist(), angles.tolist(), strict=True)])
            for z in (query, key)
        ]
        weights = (turned[0] @ turned[1].T / math.sqrt(dim)).softmax(-1)
        out[:, head] = weights @ value[:, head]
    expected = out.flatten(1) @ attention.out.weight.T + attention.out.bias
    torch.testing.assert_close(attention(x, angles)[0], expected)


def test_rotary_attention_keeps_the_type_of_half_precision():
    attention = Attention(8, 2, 4).bfloat16()
    out = attention(torch.randn(1, 3, 8, dtype=torch.bfloat16), time_angles(3, 4))
    assert out.dtype == torch.bfloat16


def test_gated_feed_forward():
    layer = GEGLU(6, expansion=2)
    x = torch.randn(4, 6)
    hidden = x @ layer.up.weight.T + layer.up.bias
    value, gate = hidden[:, :12], hidden[:, 12:]
    expected = F.linear(value * gate * 0.5 * (1 + torch.erf(gate / math.sqrt(2))), layer.down.weight, layer.down.bias)
    torch.testing.assert_close(layer(x), expected)


def test_angles_are_exact_under_autocast():
    with torch.autocast("cpu", torch.bfloat16):
        assert time_angles(24, 16).dtype == space_angles(3, 5, 16).dtype == torch.float32
        torch.testing.assert_close(time_angles(24, 16)[23, 0], torch.tensor(23.0))


def test_angles_are_float32_whatever_the_default():
    torch.set_default_dtype(torch.bfloat16)  # as Lightning does for precision bf16-true
    try:
        found = time_angles(5, 8), space_angles(2, 3, 8)
    finally:
        torch.set_default_dtype(torch.float32)
    for angles, expected in zip(found, (time_angles(5, 8), space_angles(2, 3, 8)), strict=True):
        assert torch.equal(angles, expected)
