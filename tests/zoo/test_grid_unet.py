"""The U-Net over time and grid: how it cuts latents into images, and that it learns motion of a content frame."""

import pytest
import torch
import torch.nn.functional as F

from cmd_lightning.errors import InputError
from cmd_lightning.networks import Condition, LatentSpec
from cmd_lightning.networks.mixing import FrameMixing, PointAttention
from cmd_lightning.networks.unet import velocity_of
from cmd_lightning.zoo.autoencoders.cmd import CMDAutoencoder
from cmd_lightning.zoo.autoencoders.grid import GridAutoencoder
from cmd_lightning.zoo.motion.grid import GridUNet, map_sizes

SIZES = {"channels": 3, "patch_size": 2, "width": 8, "motion_channels": 2, "depth": 1, "heads": 1, "head_dim": 8}
GRID = GridAutoencoder(**SIZES, grid=(3, 5)).latent_spec((3, 6, 6, 10))
AXES = CMDAutoencoder(**SIZES).latent_spec((3, 6, 6, 10))
SMALL = {"width": 16, "multipliers": (1, 1), "layers": 1, "heads": 2, "content_patch_size": 2}


def test_a_grid_is_an_image_and_every_other_kind_a_line():
    assert map_sizes(GRID) == [(3, 5)]
    assert map_sizes(AXES) == [(1, 3), (1, 5)]
    ragged = LatentSpec((3, 6, 6), (2, 4, 3), ((2.0, 0.2, 0.2), (2.0, 0.2, 0.8), (2.0, 0.8, 0.5)))
    assert map_sizes(ragged) == [(1, 3)]
    network = GridUNet(GRID, 0, **SMALL)
    x = torch.arange(15.0).expand(2, 4, 15)
    [image] = network.to_maps(x)
    assert torch.equal(image[0, 0], torch.arange(15.0).view(3, 5))
    for slot, (_, y, x) in enumerate(GRID.slots):
        assert image[0, 0, int(y * 3), int(x * 5)] == slot


@pytest.mark.parametrize("frames", [1, 2, 4])
def test_an_untouched_part_stays_where_it_is(frames, wake):
    """Without blocks, stem and head carry a slot to its neighbours in space, and to the frames of its image alone."""
    network = wake(GridUNet(GRID, 0, **SMALL, frames=frames))
    network.transform = lambda maps, signal: [network.head(x) for x in maps]
    motion = torch.randn(1, 2, 6, 15)
    moved = motion.clone()
    moved[0, :, 4, 7] += 1  # frame 4, row 1, column 2
    call = torch.tensor([5]), network.prepare(torch.randn(1, 3, 6, 10)), None
    changed = (network(moved, *call) - network(motion, *call)).abs().amax(dim=(0, 1)) > 1e-7  # (T, S)
    times = changed.any(1).nonzero().flatten().tolist()
    assert times == [t for t in range(6) if t // frames == 4 // frames]
    columns = changed.any(0).view(3, 5)
    assert torch.equal(columns, torch.tensor([[True] * 5] * 3))  # two convolutions of 3 x 3 about the middle


def test_frames_of_a_point_mix_by_a_perceptron_over_all_their_channels(wake):
    mixing = wake(FrameMixing(8, frames=3))
    x = torch.randn(2 * 3, 8, 4, 5)
    first, second = (layer.weight[:, :, 0, 0] for layer in (mixing.hidden, mixing.head))
    for b, row, column in ((0, 0, 0), (1, 3, 2)):
        series = torch.cat([mixing.norm(x)[3 * b + t, :, row, column] for t in range(3)])
        added = second @ F.silu(first @ series + mixing.hidden.bias) + mixing.head.bias
        [mixed] = mixing([x])
        for t in range(3):
            expected = x[3 * b + t, :, row, column] + added[8 * t : 8 * t + 8]
            torch.testing.assert_close(mixed[3 * b + t, :, row, column], expected)


def test_a_frame_reaches_all_frames_and_points_attend_from_a_level_on(wake):
    network = wake(GridUNet(GRID, 0, **SMALL, frames=2))
    motion = torch.randn(1, 2, 6, 15)
    moved = motion.clone()
    moved[0, 0, 5, 0] += 5
    call = torch.tensor([5]), network.prepare(torch.randn(1, 3, 6, 10)), None
    changed = (network(moved, *call) - network(motion, *call)).abs().amax(dim=(0, 1)) > 1e-4  # (T, S)
    assert changed[:, 0].all()
    for level, blocks in ((0, 7), (1, 4), (2, 1), (3, 0)):  # 2 levels, of 1 + 2 blocks each, and the middle
        network = GridUNet(GRID, 0, **SMALL, attention_from_level=level)
        assert sum(isinstance(module, PointAttention) for module in network.modules()) == blocks


@pytest.mark.slow
def test_motion_is_learned_from_content_and_caption():
    """The motion is the content's brightness at each slot, more or less one, as the caption says."""
    torch.manual_seed(0)
    network = GridUNet(GRID, 2, **SMALL, frames=2)
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    timestep = torch.full((8,), 999)

    def batch():
        content = torch.randn(8, 3, 3, 5).repeat_interleave(2, 2).repeat_interleave(2, 3)
        sign = torch.tensor([1.0, -1.0]).repeat(4)
        condition = Condition(F.one_hot((sign > 0).long(), 2).float())
        motion = (sign.view(-1, 1, 1, 1) + content.mean(1, keepdim=True)[:, :, ::2, ::2]).flatten(2)[:, :, None]
        return content, condition, motion.expand(-1, 2, 6, -1)

    def loss():
        content, condition, motion = batch()
        return F.mse_loss(network.predict(torch.randn(8, 2, 6, 15), timestep, content, condition), motion)

    start = loss().item()
    for _ in range(120):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
    assert loss() < 0.15 * start  # the sign alone is 75 % of it


def test_a_clean_prediction_gives_a_velocity(wake):
    plain, given = wake(GridUNet(GRID, 0, **SMALL, frames=4)), GridUNet(GRID, 0, **SMALL, frames=4, clean=True)
    given.load_state_dict(plain.state_dict())
    motion, timestep = torch.randn(2, 2, 6, 15), torch.tensor([3.0, 800.0])
    call = motion, timestep, plain.prepare(torch.randn(2, 3, 6, 10)), None
    torch.testing.assert_close(given(*call), velocity_of(motion, plain(*call), timestep), atol=1e-4, rtol=1e-4)


def test_heads_must_divide_every_level():
    with pytest.raises(InputError, match="heads 3: must divide the channels 16"):
        GridUNet(GRID, 0, **SMALL | {"heads": 3})
