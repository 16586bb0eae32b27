import math

import pytest
import torch

from cmd_lightning.errors import InputError
from cmd_lightning.networks import Condition
from cmd_lightning.networks.unet import ResBlock, group_norm
from cmd_lightning.zoo.baselines.lvdm import LVDM, SpaceTimeTransformer, TimeAttention

SHAPE = (3, 5, 6, 10)


def naive_time_attention(layer, x, frames):
    """Equations of Shaw et al. 2018, one number after the other, for tokens `(B, T, N, width)`."""
    heads, length = layer.heads, layer.length
    out = torch.zeros_like(x)
    size = x.shape[-1] // heads
    q, k, v = (x @ layer.qkv.weight.T).chunk(3, dim=-1)
    for b in range(x.shape[0]):
        for n in range(x.shape[2]):
            for h in range(heads):
                part = slice(h * size, (h + 1) * size)
                for t in range(frames):
                    places = [min(max(s - t, -length), length) + length for s in range(frames)]
                    scores = [
                        q[b, t, n, part] @ (k[b, s, n, part] + layer.key_positions[places[s]]) / math.sqrt(size)
                        for s in range(frames)
                    ]
                    weights = torch.stack(scores).exp()
                    weights = weights / weights.sum()
                    out[b, t, n, part] = sum(
                        weights[s] * (v[b, s, n, part] + layer.value_positions[places[s]]) for s in range(frames)
                    )
    return out @ layer.out.weight.T + layer.out.bias


@torch.no_grad()
def test_time_attention_is_that_of_its_equations(wake):
    layer = wake(TimeAttention(8, heads=2, length=2), 0.5)
    x = torch.randn(2, 5, 3, 8)  # frames up to 4 apart, so that positions are shared at the ends
    expected = naive_time_attention(layer, x, 5)
    torch.testing.assert_close(layer(x.flatten(0, 1), 5).unflatten(0, (2, 5)), expected)


@torch.no_grad()
def test_frames_talk_at_their_own_point_and_their_order_matters(wake):
    block = wake(SpaceTimeTransformer(8, 0, heads=2, temporal_length=16))
    layer = block.time
    x = torch.randn(1, 4, 3, 8)
    out = layer(x[0], 4)
    moved = x.clone()
    moved[0, 3, 1] += 1
    changed = (layer(moved[0], 4) != out).any(dim=2)
    assert changed.tolist() == [[False, True, False]] * 4
    order = torch.tensor([2, 0, 3, 1])
    assert (layer(x[0, order], 4) - out[order]).abs().max() > 1e-3
    layer.key_positions.zero_()
    layer.value_positions.zero_()
    torch.testing.assert_close(layer(x[0, order], 4), layer(x[0], 4)[order])  # without positions it does not


@torch.no_grad()
def test_without_time_attention_frames_are_separate_images(wake):
    network = wake(LVDM(SHAPE, 12, width=8, multipliers=(1, 2), layers=1, heads=2))
    latent, timestep = torch.randn(2, *SHAPE), torch.tensor([3, 600])
    text = torch.randn(2, 4, 12)
    condition = Condition(text.mean(1), text)
    far = latent.clone()
    far[:, :, 4] += 1

    def first_frame(latent):
        return network(latent, timestep, condition)[:, :, 0]

    assert (first_frame(far) - first_frame(latent)).abs().amax(dim=(1, 2, 3)).min() > 1e-4
    for module in network.modules():
        if isinstance(module, TimeAttention):
            module.out.weight.zero_()
    torch.testing.assert_close(first_frame(far), first_frame(latent))
    alone = network(latent[:, :, :1], timestep, condition)
    torch.testing.assert_close(first_frame(latent), alone[:, :, 0])


def test_any_size_and_number_of_frames():
    network = LVDM(SHAPE, 0, width=8, multipliers=(1, 2, 2), layers=1, heads=2, temporal_length=2)
    for shape in ((1, 3, 1, 8, 8), (1, 3, 7, 5, 9), (2, 3, 2, 1, 3)):
        assert network(torch.randn(shape), torch.zeros(shape[0]), None).shape == shape


def test_transformers_start_as_the_identity():
    x = torch.randn(6, 8, 3, 4)
    (out,) = SpaceTimeTransformer(8, 12, heads=2, temporal_length=4)([x], 3, torch.randn(6, 2, 12))
    assert torch.equal(out, x)


@torch.no_grad()
@pytest.mark.parametrize("width", [4, 8, 12, 32, 64])
def test_no_norm_takes_the_signal_out_again(width, wake):
    block = wake(ResBlock(width, width, 16), 0.3)
    x = torch.randn(2, width, 4, 4)
    assert (block(x, torch.randn(2, 16)) - block(x, torch.randn(2, 16))).abs().max() > 1e-2


def test_group_norm_of_the_published_widths():
    assert {group_norm(width).num_groups for width in (320, 640, 960, 1280, 1920, 2560)} == {32}
    assert [group_norm(width).num_groups for width in (2, 6, 8, 32, 64, 128)] == [1, 1, 2, 8, 16, 32]


SIZES = {"width": 24, "multipliers": (1, 2, 4, 4), "layers": 1, "heads": 2}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"heads": 5},
            "heads 5: must divide the channels 24, 48, 96 of the levels that attend; give one of 1, 2, 3, 4",
        ),
        ({"heads": 48}, "heads 48: must divide the channels 24"),
        ({"heads": 0}, "heads 0: must be at least 1"),
        ({"width": 25}, "width 25: .* give an even number"),
        ({"width": 0}, "width 0: must be at least 1"),
        ({"width": -24}, "width -24: must be at least 1"),
        ({"layers": 0}, "layers 0: must be at least 1"),
        ({"multipliers": ()}, r"multipliers \[\]: give one for each level"),
        ({"multipliers": (1, 0)}, r"multipliers \[1, 0\]: .* all at least 1"),
        ({"temporal_length": 0}, "temporal_length 0: must be at least 1"),
    ],
)
def test_sizes_that_do_not_fit_are_reported(changes, message):
    with pytest.raises(InputError, match=message) as caught:
        LVDM(SHAPE, 12, **SIZES | changes)
    assert "\n" not in str(caught.value)


def test_only_levels_that_attend_ask_for_heads():
    assert LVDM(SHAPE, 0, width=2, multipliers=(3, 4, 3), layers=1, heads=2).condition_dim == 0
    with pytest.raises(InputError, match="heads 4: must divide the channels 6, 8 of the levels that attend"):
        LVDM(SHAPE, 0, width=2, multipliers=(3, 4, 3), layers=1, heads=4)
    with pytest.raises(InputError, match="channels 6 of the levels that attend"):  # the last one attends in the middle
        LVDM(SHAPE, 0, width=6, multipliers=(1,), layers=1, heads=4)
