"""Options for faster or smaller training change results only by rounding."""

import pytest
import torch
from small_fits import CASES, adam, assert_near, assert_near_in_half, component, fit, mixed

from cmd_lightning.callbacks import EMA, LastCheckpoint
from cmd_lightning.errors import InputError
from cmd_lightning.networks import AutoencoderNetwork
from cmd_lightning.networks.compiling import compile_network

NETWORKS = ("autoencoder", "U-Net, captions", "content DiT, classes", "motion DiT, captions")  # one of each
QUICK = {"backend": "aot_eager"}  # traces all that inductor does, and generates no code


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """What is computed without options."""
    folder = tmp_path_factory.mktemp("plain")
    return {case: fit(component(case), folder, limit_val_batches=0) for case in CASES}


def compare(plain, tmp_path, case, model, **options):
    ours = fit(model, tmp_path, limit_val_batches=0, **options)
    assert_near(ours[0], plain[case][0], 1e-5)
    assert_near(ours[1], plain[case][1], 1e-4)  # rounding has been through the weights


@pytest.mark.parametrize("case", NETWORKS)
def test_gradient_checkpointing(plain, tmp_path, case):
    compare(plain, tmp_path, case, component(case, gradient_checkpointing=True))


@pytest.mark.parametrize(
    ("case", "recomputed"),
    [*(pytest.param(case, True, marks=pytest.mark.slow) for case in NETWORKS), ("motion DiT, captions", False)],
)
def test_compiled(plain, tmp_path, case, recomputed):
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    names = list(component(case).state_dict())
    model = component(case, compile=QUICK, gradient_checkpointing=recomputed)
    compare(plain, tmp_path, case, model)
    assert list(model.state_dict()) == names
    counted = torch._dynamo.utils.counters
    assert counted["stats"]["unique_graphs"] and not counted["graph_break"], counted
    # However deep a network of ours is, its blocks are compiled once for each shape that they have; what enters encoder
    # and decoder lies otherwise in memory than what comes out of a block.
    assert counted["stats"]["unique_graphs"] <= {"autoencoder": 3}.get(case, 1), counted


@pytest.mark.slow
@pytest.mark.parametrize("case", ["autoencoder", "U-Net, captions", "motion DiT, captions"])
def test_compiled_by_inductor(plain, tmp_path, case):
    torch._dynamo.reset()
    compare(plain, tmp_path, case, component(case, compile=True, gradient_checkpointing=True))


def test_a_unet_compiled_by_its_blocks(plain, tmp_path):
    """As in shards; the blocks of each of its two levels share a graph."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    model = component("U-Net, captions")
    model.network.enable_gradient_checkpointing()
    compile_network(model.network, QUICK, by_block=True)
    compare(plain, tmp_path, "U-Net, captions", model)
    counted = torch._dynamo.utils.counters
    assert counted["stats"]["unique_graphs"] == 2 and not counted["graph_break"], counted


@pytest.mark.slow
def test_compiled_with_average_and_checkpoints(tmp_path):
    """A run compiled only before or only after an interruption ends as an uncompiled run; so does its average."""
    torch._dynamo.reset()
    ends = {}
    for before, after in ((False, False), (True, False), (False, True)):
        place = tmp_path / f"{before} {after}"
        for steps, compiled in ((2, before), (4, after)):
            model = component("motion DiT, captions", adam, pixels=True, compile=QUICK if compiled else False)
            resume = place / "last.ckpt" if steps == 4 else None
            callbacks = [EMA(0.5), LastCheckpoint(str(place))]
            fit(model, tmp_path, steps=steps, length=2, resume=resume, callbacks=callbacks)
        ends[before, after] = torch.load(place / "last.ckpt", weights_only=True)
    never = ends.pop((False, False))
    for end in ends.values():
        for part in ("state_dict", "ema", "optimizer_states"):
            torch.testing.assert_close(end[part], never[part], rtol=1e-4, atol=1e-5)


def test_an_average_in_place_of_the_weights_is_what_compiled_code_sees(tmp_path):
    torch._dynamo.reset()
    losses = {}
    for compiled in (False, QUICK):
        model, ema = component("content DiT, classes", compile=compiled), EMA(0.5)
        fit(model, tmp_path, steps=2, callbacks=[ema])
        losses[bool(compiled)] = float(model.trainer.callback_metrics["val/loss"])
    raw = component("content DiT, classes")
    fit(raw, tmp_path, steps=2)
    assert losses[True] == pytest.approx(losses[False], rel=1e-5)
    assert losses[False] != pytest.approx(float(raw.trainer.callback_metrics["val/loss"]), rel=1e-4)


@pytest.mark.parametrize("case", CASES)
def test_accumulated_gradients_are_those_of_the_whole_batch(plain, tmp_path, case):
    ours = fit(component(case), tmp_path, limit_val_batches=0, accumulate_grad_batches=2)
    for mine, theirs, bound in zip(ours, plain[case], (1e-5, 1e-4), strict=True):
        assert_near(mine | {"buffers": theirs["buffers"]}, theirs, bound)  # the statistics are of each batch


@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed"])
@pytest.mark.parametrize("case", NETWORKS)
def test_half_precision(plain, tmp_path, case, precision):
    """With autocast and a gradient scaler as on a GPU, and gradient checkpointing."""
    model = component(case, gradient_checkpointing=True)
    steps = fit(model, tmp_path, limit_val_batches=0, plugins=[mixed(precision)], gradient_clip_val=1.0)
    assert_near_in_half(steps[0], plain[case][0], precision)
    assert all(weight.isfinite().all() and weight.dtype == torch.float32 for weight in model.parameters())


@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed"])
def test_fused_optimisers_and_clipping(tmp_path, precision):
    model = component("motion DiT, captions")
    model.optimizer_factory = lambda weights: torch.optim.AdamW(weights, lr=1e-4, fused=True)
    options = {"limit_val_batches": 0, "plugins": [mixed(precision)], "gradient_clip_val": 1.0}
    if precision == "bf16-mixed":
        assert fit(model, tmp_path, **options)
        return
    with pytest.raises(InputError, match=r"gradients of a fused optimiser cannot be clipped; set model.optim"):
        fit(model, tmp_path, **options)


@pytest.mark.parametrize("by_block", [False, True])
def test_wrong_options_are_reported(by_block):
    with pytest.raises(InputError, match=r"model.compile \{'backend': 'nosuch'\}: give arguments of torch.compile; .*"):
        compile_network(component("motion DiT, captions").network, {"backend": "nosuch"}, by_block)
    with pytest.raises(InputError, match=r"model.compile \{'colour': 1\}: give arguments of torch.compile; .*colour"):
        compile_network(component("U-Net, captions").network, {"colour": 1}, by_block)


def test_a_network_without_blocks_is_reported():
    class Plain(AutoencoderNetwork):
        """Has nothing that repeats."""

    with pytest.raises(InputError, match=r"model.compile: Plain has no blocks to compile; leave .* _repeated_blocks"):
        compile_network(Plain(3), True)
