"""The content model from scratch: size, shapes, and what reaches its output."""

import pytest
import torch

from cmd_lightning.networks import Condition, LatentSpec
from cmd_lightning.networks.unet import velocity_of
from cmd_lightning.zoo.content.dit import ContentDiT

SLOTS = tuple((0.0, i / 5) for i in range(2)) + tuple((1.0, i / 5) for i in range(3))
SPEC = LatentSpec((3, 7, 10), (4, 5, 5), SLOTS)
SMALL = {"width": 24, "depth": 2, "heads": 2, "patch_size": 2}


def inputs(count=2, dim=6):
    return torch.randn(count, 3, 7, 10), torch.tensor([3, 700])[:count], Condition(torch.randn(count, dim))


OPTIONS = [{}, {"convolutional": 8}, {"long_skips": True, "depth": 5}, {"convolutional": 4, "long_skips": True}]


@pytest.mark.parametrize("options", OPTIONS)
def test_starts_at_zero_and_keeps_odd_shapes(wake, options):
    network = ContentDiT(SPEC, 6, **SMALL | options)
    content, timestep, condition = inputs()
    assert torch.equal(network(content, timestep, condition), torch.zeros_like(content))
    assert wake(network)(content, timestep, condition).shape == content.shape


@pytest.mark.parametrize("options", OPTIONS)
def test_everything_that_is_given_matters(wake, options):
    network = wake(ContentDiT(SPEC, 6, **SMALL | options))
    content, timestep, condition = inputs()
    output = network(content, timestep, condition)
    moved = content.clone()
    moved[:, :, -1, -1] += 1  # a corner, padded to a whole patch
    for other in (
        network(moved, timestep, condition),
        network(content, timestep + 50, condition),
        network(content, timestep, Condition(condition.pooled + 1)),
    ):
        assert not torch.allclose(other, output, atol=1e-4)
    # A sample does not see its neighbours.
    alone = network(content[:1], timestep[:1], Condition(condition.pooled[:1]))
    assert torch.allclose(alone, output[:1], atol=1e-5)


def test_unconditional():
    network = ContentDiT(SPEC, 0, **SMALL)
    content, timestep, _ = inputs()
    assert network(content, timestep, None).shape == content.shape


def test_patches_go_where_they_come_from(wake):
    """Without blocks the way in and out is one linear map a patch: a point reaches the points of its patch alone."""
    network = wake(ContentDiT(SPEC, 0, **SMALL | {"depth": 0}))
    content = torch.randn(1, 3, 7, 10)
    moved = content.clone()
    moved[0, 1, 4, 6] += 1
    changed = (network(moved, torch.tensor([5]), None) - network(content, torch.tensor([5]), None)).abs() > 1e-6
    where = torch.zeros_like(changed)
    where[:, :, 4:6, 6:8] = True
    assert changed.any()
    assert not (changed & ~where).any()


@pytest.mark.parametrize(("width", "depth", "heads", "millions"), [(1152, 28, 16, 675), (1024, 24, 16, 458)])
def test_sizes_of_the_paper(width, depth, heads, millions):
    """DiT-XL and DiT-L (Peebles and Xie, table 1): 675 and 458 million parameters, class table left out."""
    with torch.device("meta"):
        network = ContentDiT(LatentSpec((4, 32, 32), (4, 5, 5), SLOTS), 1152, width, depth, heads, patch_size=2)
    assert sum(p.numel() for p in network.parameters()) / 1e6 == pytest.approx(millions, rel=0.01)


def test_convolutions_carry_over_the_borders_of_patches(wake):
    network = wake(ContentDiT(SPEC, 0, **SMALL | {"depth": 0, "convolutional": 8}))
    content = torch.randn(1, 3, 7, 10)
    moved = content.clone()
    moved[0, 1, 4, 6] += 1
    changed = (network(moved, torch.tensor([5]), None) - network(content, torch.tensor([5]), None)).abs() > 1e-7
    rows, columns = changed[0].any(0).nonzero().unbind(1)
    # One pixel before the patches are cut, patches of 2, one pixel after they are put together.
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (1, 6, 3, 8)


def test_long_skips_start_without_effect_and_join_the_halves(wake):
    """As they start, the network is the one without them; block 3 of 4 gets what block 2 left, block 4 that of 1."""
    plain = wake(ContentDiT(SPEC, 6, **SMALL | {"depth": 4}))
    network = ContentDiT(SPEC, 6, **SMALL | {"depth": 4, "long_skips": True})
    started = [skip.weight.clone() for skip in network.skips]
    network.load_state_dict(plain.state_dict(), strict=False)
    call = inputs()
    assert torch.equal(network(*call), plain(*call))
    assert len(started) == 2
    left = []
    for block in network.blocks:
        block.register_forward_hook(lambda _, given, result: left.append(result))
    seen = []
    for skip in network.skips:
        skip.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    network(*call)
    for joined, (before, early) in zip(seen, ((1, 1), (2, 0)), strict=True):
        assert torch.equal(joined, torch.cat([left[before], left[early]], dim=2))


@pytest.mark.parametrize("options", OPTIONS)
def test_a_clean_prediction_is_given_as_the_velocity(wake, options):
    plain = wake(ContentDiT(SPEC, 6, **SMALL | options))
    network = ContentDiT(SPEC, 6, **SMALL | options, clean=True)
    network.load_state_dict(plain.state_dict())
    content, timestep, condition = inputs()
    expected = velocity_of(content, plain(content, timestep, condition), timestep)
    torch.testing.assert_close(network(content, timestep, condition), expected, atol=1e-4, rtol=1e-4)
