import json

import numpy as np
import pytest
import torch
from torch import nn

from cmd_lightning.errors import InputError
from cmd_lightning.networks import Condition, LatentSpec, Network
from cmd_lightning.networks.contracts import AutoencoderNetwork, MotionModel
from cmd_lightning.zoo.motion.dit import MotionDiT

SPEC = LatentSpec((3, 8, 12), (4, 5, 3), ((0.0, 0.25), (0.0, 0.75), (1.0, 0.5)))


class Base(Network):
    def __init__(self, width, depth=2, tag="a"):
        super().__init__()
        self.layer = nn.Linear(width, depth)
        self.tag = tag


class Child(Base):
    def __init__(self, half, bias=True):
        super().__init__(2 * half, depth=7)
        self.bias = bias


class Grandchild(Child):
    def __init__(self, third, *, scale=1.5):
        super().__init__(3 * third, False)
        self.scale = scale


class Heir(Grandchild):
    """Without its own constructor."""


class SmallMotion(MotionModel):
    def __init__(self, latent_spec, condition_dim, width=5):
        super().__init__()
        self.spec = latent_spec
        self.layer = nn.Linear(latent_spec.motion[0], width)

    def forward(self, motion, timestep, content, condition):
        return motion


def recorded(network):
    return {key: value for key, value in network.config.items() if not key.startswith("_")}


def test_latent_spec_goes_through_json():
    again = LatentSpec.of(json.loads(json.dumps(SPEC.to_dict())))
    assert again == SPEC
    assert isinstance(again.slots[0], tuple)
    assert LatentSpec.of(SPEC) is SPEC


def test_latent_spec_wants_a_coordinate_for_each_slot():
    with pytest.raises(InputError, match="2 slot coordinates for 3 motion slots"):
        LatentSpec((3, 8, 12), (4, 5, 3), ((0.0,), (1.0,)))


@pytest.mark.parametrize(
    ("network", "expected"),
    [
        (lambda: Base(4), {"width": 4, "depth": 2, "tag": "a"}),
        (lambda: Base(4, 3), {"width": 4, "depth": 3, "tag": "a"}),
        (lambda: Base(4, tag="b"), {"width": 4, "depth": 2, "tag": "b"}),
        (lambda: Child(4), {"half": 4, "bias": True}),
        (lambda: Child(half=4, bias=False), {"half": 4, "bias": False}),
        (lambda: Grandchild(2), {"third": 2, "scale": 1.5}),
        (lambda: Heir(2, scale=2.5), {"third": 2, "scale": 2.5}),
    ],
)
def test_arguments_are_recorded(network, expected):
    assert recorded(network()) == expected


def test_a_subclass_is_built_with_what_its_base_was_given():
    network = Grandchild(2)
    assert network.layer.weight.shape == (7, 12)
    assert network.bias is False
    assert (network.tag, network.scale) == ("a", 1.5)


def test_records_of_two_networks_do_not_mix():
    first, second = Base(4), Base(5, 1)
    assert recorded(first)["width"] == 4
    assert recorded(second) == {"width": 5, "depth": 1, "tag": "a"}


@pytest.mark.parametrize("make", [lambda: Grandchild(2, scale=0.25), lambda: SmallMotion(SPEC, 0, width=3)])
def test_folder_gives_back_the_same_network(tmp_path, make):
    network = make()
    network.save_pretrained(tmp_path)
    again = type(network).from_pretrained(tmp_path)
    assert recorded(again).keys() == recorded(network).keys()
    for name, tensor in network.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor)
    if isinstance(network, SmallMotion):
        assert again.spec == SPEC


def test_folder_of_a_real_motion_model_gives_identical_output(tmp_path, wake):
    network = wake(MotionDiT(SPEC, 6, width=8, depth=1, heads=2))
    network.save_pretrained(tmp_path)
    again = MotionDiT.from_pretrained(tmp_path)
    inputs = (torch.randn(2, 4, 5, 3), torch.tensor([3, 900]), torch.randn(2, 3, 8, 12), Condition(torch.randn(2, 6)))
    assert torch.equal(again(*inputs), network(*inputs))


def test_condition_maps_what_is_there():
    condition = Condition(torch.ones(2, 3), mask=torch.ones(2, 1, dtype=torch.bool))
    mapped = condition.map(lambda x: x[:1])
    assert mapped.pooled.shape == (1, 3)
    assert mapped.mask.shape == (1, 1)
    assert mapped.tokens is None
    added = condition.combine(Condition(2 * torch.ones(2, 3), mask=~condition.mask), torch.add)
    assert added.pooled.tolist() == [[3.0] * 3] * 2
    assert added.tokens is None


class Identity(AutoencoderNetwork):
    def __init__(self, motion_channels=3):
        super().__init__(motion_channels)


def test_motion_statistics_are_numpys():
    network = Identity()
    assert (network.motion_mean.tolist(), network.motion_std.tolist()) == ([0.0] * 3, [1.0] * 3)
    scale, shift = torch.tensor([0.2, 3.0, 1.0]).view(3, 1, 1), torch.tensor([4.0, -1.0, 0.0]).view(3, 1, 1)
    # Each clip has another mean, so most of the variance is between the batches.
    batches = [scale * torch.randn(1, 3, 5, 7) + shift + 2 * torch.randn(3, 1, 1) for _ in range(4)]
    for step, batch in enumerate(batches):
        network.measure_motion(batch, momentum=step / (step + 1))
    values = torch.cat(batches).double().numpy().transpose(1, 0, 2, 3).reshape(3, -1)
    np.testing.assert_allclose(network.motion_mean, values.mean(1), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(network.motion_std, values.std(1), rtol=1e-5)


def test_normalised_motion_has_unit_variance_and_comes_back():
    network = Identity()
    motion = torch.tensor([0.01, 5.0, 1.0]).view(3, 1, 1) * torch.randn(2, 3, 5, 7) + 2
    network.measure_motion(motion, 0.0)
    normal = network.normalize_motion(motion)
    values = normal.transpose(0, 1).flatten(1)
    torch.testing.assert_close(values.mean(1), torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(values.std(1, correction=0), torch.ones(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(network.denormalize_motion(normal), motion)


def test_motion_that_never_moves_can_be_normalised():
    network = Identity()
    network.measure_motion(torch.full((1, 3, 5, 7), 0.5), 0.0)
    assert network.normalize_motion(torch.full((1, 3, 5, 7), 0.5)).isfinite().all()
