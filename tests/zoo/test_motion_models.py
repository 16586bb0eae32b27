"""What every motion model of configs/motion must do; a new file there is tested without a line here."""

import inspect
from pathlib import Path

import pytest
import torch
import yaml

import cmd_lightning
from cmd_lightning import zoo
from cmd_lightning.compat import REPEATED
from cmd_lightning.errors import InputError
from cmd_lightning.networks import Condition, LatentSpec, MotionModel
from cmd_lightning.networks.compiling import blocks
from cmd_lightning.zoo.autoencoders.grid import GridAutoencoder

CONFIGS = Path(cmd_lightning.__path__[0]).parent / "configs"
FILES = sorted((CONFIGS / "motion").glob("*.yaml"))


def axis_spec(content, channels, frames, rows, columns):
    slots = [(0.0, (i + 0.5) / rows) for i in range(rows)] + [(1.0, (i + 0.5) / columns) for i in range(columns)]
    return LatentSpec(content, (channels, frames, rows + columns), tuple(slots))


GRID = GridAutoencoder(channels=3, patch_size=2, width=8, motion_channels=2, depth=1, grid=(3, 5))
LAYOUTS = {
    "wide": axis_spec((3, 8, 12), 3, 6, 4, 6),
    "odd": axis_spec((4, 7, 9), 1, 5, 7, 9),  # multiples of nothing
    "one frame, smaller than a patch": axis_spec((3, 2, 3), 3, 1, 2, 3),
    "grid": GRID.latent_spec((3, 5, 6, 12)),
    "without places": LatentSpec((3, 8, 12), (2, 4, 3), ((3.0,), (4.0, 0.5, 0.5, 0.5), (4.0,))),
}


def entry(path):
    """The class and the arguments that a config names."""
    zoo.import_all()
    network = yaml.safe_load(path.read_text())["model"]["init_args"]["network"]
    found, todo = {}, [MotionModel]
    while todo:
        todo += (new := todo.pop().__subclasses__())
        found |= {kind.__name__: kind for kind in new}
    return found[network["class_path"]], network["init_args"]


@pytest.fixture(params=FILES, ids=lambda path: path.stem)
def make(request):
    """Makes the network of a config for a layout, or skips a layout that it refuses, naming what to use instead."""
    kind, settings = entry(request.param)

    def build(layout="wide", condition_dim=6):
        try:
            return kind(LAYOUTS[layout], condition_dim, **settings)
        except InputError as error:
            if layout not in ("grid", "without places"):
                raise
            assert "use MotionDiT" in str(error)
            pytest.skip(f"{kind.__name__} supports rows and columns only")

    return build


def inputs(layout="wide", condition_dim=6, batch=2):
    spec = LAYOUTS[layout]
    condition = Condition(torch.randn(batch, condition_dim)) if condition_dim else None
    timestep = torch.tensor([3, 950])[:batch]
    return torch.randn(batch, *spec.motion), timestep, torch.randn(batch, *spec.content), condition


@pytest.mark.parametrize("layout", LAYOUTS)
def test_starts_at_zero_and_keeps_every_shape(make, layout, wake):
    network, call = make(layout), inputs(layout)
    assert torch.equal(network.predict(*call), torch.zeros_like(call[0]))
    woken = wake(network).predict(*call)
    assert woken.shape == call[0].shape
    assert (woken != 0).all()


@pytest.mark.parametrize("layout", ["wide", "grid"])
def test_everything_reaches_the_output(make, layout, wake):
    network = wake(make(layout))
    motion, timestep, content, condition = inputs(layout)
    output = network.predict(motion, timestep, content, condition)

    def moved(*call):
        return (network.predict(*call) - output).abs().amax(dim=(1, 2, 3)).min() / output.std()

    assert moved(motion + torch.randn_like(motion), timestep, content, condition) > 1e-3
    assert moved(motion.flip(2), timestep, content, condition) > 1e-3
    assert moved(motion, timestep // 2, content, condition) > 1e-3
    assert moved(motion, timestep, content.flip(3), condition) > 1e-3  # where things are in the frame counts
    assert moved(motion, timestep, content, Condition(condition.pooled + 1)) > 1e-3


@pytest.mark.parametrize("layout", ["wide", "grid"])
def test_every_point_hears_of_every_other(make, layout, wake):
    network = wake(make(layout)).double()
    motion, timestep, content, condition = (x.double() if isinstance(x, torch.Tensor) else x for x in inputs(layout))
    motion.requires_grad_()
    output = network.predict(motion, timestep, content, condition)
    for frame, slot in ((0, 0), (-1, -1)):
        (slope,) = torch.autograd.grad(output[:, :, frame, slot].sum(), motion, retain_graph=True)
        assert (slope.abs().sum(dim=1) > 0).all()


def test_samples_of_a_batch_do_not_mix(make, wake):
    network = wake(make())
    motion, timestep, content, condition = inputs()
    alone = network.predict(motion[1:], timestep[1:], content[1:], Condition(condition.pooled[1:]))
    together = network.predict(motion, timestep, content, condition)[1:]
    torch.testing.assert_close(together, alone, atol=1e-4 * float(alone.detach().std()), rtol=1e-3)


def test_what_is_prepared_stands_for_the_content_frame(make, wake):
    network = wake(make("odd"))
    motion, timestep, content, condition = inputs("odd")
    prepared = network.prepare(content)
    torch.testing.assert_close(
        network(motion, timestep, prepared, condition), network.predict(motion, timestep, content, condition)
    )


def test_checkpointed_gradients_are_equal(make, wake):
    network = wake(make()).train()
    call = inputs()
    calls = []
    _, block = blocks(network, REPEATED).popitem()
    block.register_forward_pre_hook(lambda *_: calls.append(1))

    def gradients():
        calls.clear()
        network.zero_grad()
        network.predict(*call).square().mean().backward()
        return len(calls), [p.grad.clone() for p in network.parameters()]

    once, plain = gradients()
    assert all(gradient.abs().max() > 0 for gradient in plain)  # every weight takes part
    network.enable_gradient_checkpointing()
    twice, recomputed = gradients()
    assert (once, twice) == (1, 2)
    torch.testing.assert_close(recomputed, plain)


def test_a_folder_gives_back_the_network(make, wake, tmp_path):
    network = wake(make())
    network.save_pretrained(tmp_path)
    again = type(network).from_pretrained(tmp_path)
    call = inputs()
    torch.testing.assert_close(again.predict(*call), network.predict(*call), rtol=0, atol=0)


def test_without_condition(make, wake):
    network, call = make(condition_dim=0), inputs(condition_dim=0)
    assert wake(network).predict(*call).shape == call[0].shape


@pytest.mark.parametrize("autocast", [True, False])
def test_half_precision_says_the_same(make, wake, autocast):
    network = wake(make(), 0.02)
    motion, timestep, content, condition = inputs()
    exact = network.predict(motion, timestep, content, condition)
    if autocast:
        with torch.autocast("cpu", torch.bfloat16):
            half = network.predict(motion, timestep, content, condition)
    else:
        given = (motion.bfloat16(), timestep, content.bfloat16(), condition.map(torch.Tensor.bfloat16))
        half = network.bfloat16().predict(*given)
    assert half.dtype == torch.bfloat16
    assert torch.cosine_similarity(half.float().flatten(), exact.flatten(), dim=0) > 0.99


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_config_leaves_nothing_of_the_model_that_it_is_laid_over(path):
    """The parser keeps arguments that the new class has too: the config gives all that those below it give."""
    kind, settings = entry(path)
    for below in CONFIGS.glob("shapes*/motion.yaml"):
        network = yaml.safe_load(below.read_text())["model"]["init_args"]["network"]
        assert set(network["init_args"]) & set(inspect.signature(kind).parameters) <= set(settings), below


def test_defaults_are_larger_than_what_suits_small_latents(make):
    small = make()
    with torch.device("meta"):
        large = type(small)(LAYOUTS["wide"], 6)
    assert large.num_parameters() > 10 * small.num_parameters()
