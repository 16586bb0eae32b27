"""The small U-Net for content frames: contract, what reaches its output, and that it learns a caption's content."""

import pytest
import torch
import torch.nn.functional as F

from cmd_lightning.compat import REPEATED
from cmd_lightning.diffusion import FlowMatching
from cmd_lightning.diffusion.sampling import sample
from cmd_lightning.errors import InputError
from cmd_lightning.networks import Condition, LatentSpec
from cmd_lightning.networks.compiling import blocks
from cmd_lightning.networks.unet import velocity_of
from cmd_lightning.zoo.content.image_unet import ContentUNet

SLOTS = ((0.0, 0.25), (0.0, 0.75), (1.0, 0.5))
SPEC = LatentSpec((3, 7, 10), (4, 5, 3), SLOTS)
SMALL = {"width": 16, "multipliers": (1, 2), "layers": 1, "heads": 2}
KINDS = {
    "pooled": {},
    "tokens": {"tokens": True},
    "pixels": {"patch_size": 1},
    "attention everywhere": {"attention_from_level": 0, "tokens": True},
    "no attention": {"attention_from_level": 3},
}


def inputs(dim=6):
    mask = torch.tensor([[True, True, False], [True, False, False]])
    return (
        torch.randn(2, 3, 7, 10),
        torch.tensor([3, 700]),
        Condition(torch.randn(2, dim), torch.randn(2, 3, dim), mask),
    )


@pytest.fixture(params=KINDS)
def make(request):
    return lambda dim=6: ContentUNet(SPEC, dim, **SMALL | KINDS[request.param])


def test_starts_at_zero_and_keeps_odd_shapes(make, wake):
    network = make()
    content, timestep, condition = inputs()
    assert torch.equal(network(content, timestep, condition), torch.zeros_like(content))
    woken = wake(network)(content, timestep, condition)
    assert woken.shape == content.shape
    assert (woken != 0).all()


def test_everything_that_is_given_matters(make, wake):
    network = wake(make())
    content, timestep, condition = inputs()
    output = network(content, timestep, condition)

    def moved(*call):
        return (network(*call) - output).abs().amax(dim=(1, 2, 3)).min() / output.std()

    assert moved(content.flip(3), timestep, condition) > 1e-3
    assert moved(content, timestep + 50, condition) > 1e-3
    assert moved(content, timestep, Condition(condition.pooled + 1, condition.tokens, condition.mask)) > 1e-3
    alone = network(content[:1], timestep[:1], condition.map(lambda x: x[:1]))
    torch.testing.assert_close(alone, output[:1], atol=1e-5, rtol=1e-4)


def test_tokens_matter_where_they_are_asked_for_and_padding_never(wake):
    content, timestep, condition = inputs()
    other = Condition(condition.pooled, condition.tokens.flip(2), condition.mask)
    padding = torch.where(condition.mask[..., None], condition.tokens, condition.tokens + 1)
    for tokens in (True, False):
        network = wake(ContentUNet(SPEC, 6, **SMALL, tokens=tokens))
        output = network(content, timestep, condition)
        assert torch.equal(network(content, timestep, other), output) != tokens
        assert torch.equal(network(content, timestep, Condition(condition.pooled, padding, condition.mask)), output)
    # Without tokens, the pooled vector is the only one.
    assert network(content, timestep, Condition(condition.pooled)).shape == content.shape


def test_unconditional(make, wake):
    content, timestep, _ = inputs()
    assert wake(make(0))(content, timestep, None).shape == content.shape


def test_a_folder_gives_back_the_network(make, wake, tmp_path):
    network = wake(make())
    network.save_pretrained(tmp_path)
    call = inputs()
    assert torch.equal(ContentUNet.from_pretrained(tmp_path)(*call), network(*call))


def test_checkpointed_gradients_are_equal(make, wake):
    network = wake(make()).train()
    call = inputs()
    calls = []
    _, block = blocks(network, REPEATED).popitem()
    block.register_forward_pre_hook(lambda *_: calls.append(1))

    def gradients():
        calls.clear()
        network.zero_grad()
        network(*call).square().mean().backward()
        return len(calls), [p.grad.clone() for p in network.parameters()]

    once, plain = gradients()
    assert all(gradient.abs().max() > 0 for gradient in plain)
    network.enable_gradient_checkpointing()
    twice, recomputed = gradients()
    assert (once, twice) == (1, 2)
    torch.testing.assert_close(recomputed, plain)


def test_groups_of_its_norms_have_at_least_four_channels(make):
    norms = [module for module in make().modules() if isinstance(module, torch.nn.GroupNorm)]
    assert norms
    assert all(norm.num_channels >= 4 * norm.num_groups for norm in norms)


def test_heads_must_fit_where_it_attends():
    with pytest.raises(InputError, match="heads 3: must divide the channels 32"):
        ContentUNet(SPEC, 6, **SMALL | {"heads": 3})


def test_it_learns_what_its_condition_names():
    """Two flat images by two conditions, out of pure noise: the condition is all that tells them apart."""
    torch.manual_seed(0)
    network = ContentUNet(SPEC, 4, **SMALL)
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    condition = Condition(torch.eye(4)[:2].repeat(4, 1))
    clean = torch.tensor([-0.5, 0.5]).repeat(4).view(-1, 1, 1, 1).expand(-1, 3, 7, 10)
    timestep = torch.full((8,), 999)
    for _ in range(40):
        optimizer.zero_grad()
        F.mse_loss(network(torch.randn(8, 3, 7, 10), timestep, condition), clean).backward()
        optimizer.step()
    assert F.mse_loss(network(torch.randn(8, 3, 7, 10), timestep, condition), clean) < 0.03


def test_a_clean_prediction_gives_the_velocity_of_flow_matching(wake):
    """Of a perfect prediction it is the target; the error of a wrong one is weighted by the noise level squared."""
    objective = FlowMatching()
    clean, noise = torch.randn(3, 2, 4, 6), torch.randn(3, 2, 4, 6)
    timestep = torch.tensor([60.0, 500.0, 1000.0])
    noisy = objective.corrupt(clean, noise, timestep)
    torch.testing.assert_close(velocity_of(noisy, clean, timestep), noise - clean, atol=1e-4, rtol=1e-4)
    loss = objective.loss(velocity_of(noisy, clean + 0.3, timestep), clean, noise, timestep)
    torch.testing.assert_close(loss, 0.09 / (timestep / 1000) ** 2, rtol=1e-3, atol=0)
    assert velocity_of(noisy, clean, torch.zeros(3)).isfinite().all()
    plain, given = wake(ContentUNet(SPEC, 6, **SMALL)), ContentUNet(SPEC, 6, **SMALL, clean=True)
    given.load_state_dict(plain.state_dict())
    content, timestep, condition = inputs()
    expected = velocity_of(content, plain(content, timestep, condition), timestep)
    torch.testing.assert_close(given(content, timestep, condition), expected, atol=1e-4, rtol=1e-4)


def test_a_clean_prediction_is_what_sampling_ends_at():
    """Whatever the noise, the last step of the flow leaves the image that the network predicts."""
    image = torch.randn(1, 3, 7, 10)

    def predict(noisy, timestep):
        return velocity_of(noisy, image.expand_as(noisy), timestep)

    result = sample(predict, FlowMatching(shift=3.0).scheduler(), torch.randn(4, 3, 7, 10), 12)
    torch.testing.assert_close(result, image.expand(4, -1, -1, -1), atol=0.05, rtol=0)  # all but 1 % of the noise
