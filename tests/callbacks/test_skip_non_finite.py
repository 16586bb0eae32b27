"""A step whose loss or gradients are not finite changes nothing, and training continues; many in a row end it."""

import json

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.plugins import MixedPrecision
from torch import nn
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.data import DataLoader, Dataset

from cmd_lightning.callbacks import EMA, SkipNonFinite
from cmd_lightning.components import ContentDiffusion, MotionDiffusion, VideoAutoencoder
from cmd_lightning.errors import InputError
from cmd_lightning.zoo.content.unet import unet
from cmd_lightning.zoo.motion.dit import MotionDiT

SHAPE = (3, 5, 8, 12)
NAN, INF = float("nan"), float("inf")


class Clips(Dataset):
    def __len__(self):
        return 16

    def __getitem__(self, i):
        video = torch.randint(0, 256, SHAPE, dtype=torch.uint8, generator=torch.Generator().manual_seed(i))
        return {"video": video, "key": f"clip{i}", "fps": 8.0, "label": i % 4}


class Spoil(Callback):
    """Multiplies the loss of some batches, by way of the network's output, by a factor."""

    def __init__(self, factor, *batches):
        self.factor, self.batches = factor, batches

    def on_train_start(self, trainer, pl_module):
        step = pl_module.training_step

        def training_step(batch, batch_idx):
            loss = step(batch, batch_idx)
            return loss * self.factor if trainer.fit_loop.total_batch_idx in self.batches else loss

        pl_module.training_step = training_step


class Watch(Callback):
    """The state after every step."""

    def __init__(self, ema):
        self.ema, self.states = ema, []

    def on_train_batch_end(self, trainer, pl_module, *_):
        optimizer = dict(enumerate(trainer.optimizers[0].state.values()))
        now = [dict(pl_module.named_parameters()), optimizer, self.ema.average]
        self.states.append([*tree_map(lambda x: x.detach().clone(), now), self.ema.updates])


def assert_equal(a, b):
    for x, y in zip(tree_leaves(a), tree_leaves(b), strict=True):
        assert torch.equal(torch.as_tensor(x), torch.as_tensor(y))


def fit(folder, model, *callbacks, steps=6, data=None, resume=None, **options):
    seed_everything(0, verbose=False)
    trainer = Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False, max_steps=steps,
        enable_checkpointing=False, default_root_dir=folder, callbacks=list(callbacks), **options,
    )  # fmt: skip
    trainer.fit(model, data or DataLoader(Clips(), batch_size=2), ckpt_path=resume)
    return trainer


@pytest.fixture
def component(tiny_autoencoder, tiny_condition):
    def make(stage, optimizer=lambda p: torch.optim.Adam(p, lr=1e-3)):
        if stage == "autoencoder":
            return VideoAutoencoder(tiny_autoencoder, optimizer=optimizer)
        kind, network = {
            "content": (ContentDiffusion, lambda spec, dim: unet(spec, dim, (8, 16), 1, 2)),
            "motion": (MotionDiffusion, lambda spec, dim: MotionDiT(spec, dim, width=16, depth=1, heads=2)),
        }[stage]
        condition = tiny_condition("label")
        return kind(network, tiny_autoencoder(), condition=condition, video_shape=SHAPE, optimizer=optimizer)

    return make


OPTIMIZERS = {
    "fused Adam": lambda p: torch.optim.Adam(p, lr=1e-3, fused=True),
    "foreach Adam": lambda p: torch.optim.Adam(p, lr=1e-3, foreach=True),
    "AdamW": lambda p: torch.optim.AdamW(p, lr=1e-3, weight_decay=0.5),
    "SGD": lambda p: torch.optim.SGD(p, lr=1e-3, momentum=0.9, weight_decay=0.5),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("stage", ["autoencoder", "content", "motion"])
@pytest.mark.filterwarnings("ignore:Step 3 is skipped")
def test_a_step_is_skipped_and_training_continues(tmp_path, component, stage, optimizer):
    ema = EMA()
    watch, model = Watch(ema), component(stage, OPTIMIZERS[optimizer])
    trainer = fit(tmp_path, model, ema, watch, Spoil(NAN if optimizer != "SGD" else INF, 3), gradient_clip_val=1.0)
    _, _, before, skipped, after, end = watch.states
    assert_equal(before, skipped)
    for other in (after, end):
        assert not torch.equal(before[2][key := next(iter(before[2]))], other[2][key])
        assert all(x.isfinite().all() for x in tree_leaves(other[:3]))
    assert end[3] == 5
    assert trainer.global_step == 6
    assert trainer.callback_metrics["train/skipped_steps"] == 1
    assert all(value.isfinite().all() for value in model.state_dict().values())
    loss = "nan" if optimizer != "SGD" else "inf"
    line = {"step": 3, "rank": 0, "loss": loss, "keys": ["clip6", "clip7"]}
    assert [json.loads(text) for text in (tmp_path / "non_finite.jsonl").read_text().splitlines()] == [line]


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.filterwarnings("ignore:Step 1 is skipped")
def test_accumulated_steps_are_skipped_whole(tmp_path, component, scaled):
    ema = EMA()
    watch = Watch(ema)
    plugins = [MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=2.0**10))] if scaled else []
    options = {"steps": 4, "accumulate_grad_batches": 2, "plugins": plugins}
    trainer = fit(tmp_path, component("motion"), ema, watch, Spoil(NAN, 2), **options)
    assert trainer.global_step == 4
    first, skipped, after = watch.states[1], watch.states[3], watch.states[5]
    assert_equal(first, skipped)
    assert first[3] == 1 and after[3] == 2
    lines = [json.loads(text) for text in (tmp_path / "non_finite.jsonl").read_text().splitlines()]
    assert [line["keys"] for line in lines] == [["clip4", "clip5"], ["clip6", "clip7"]]
    assert lines[0]["loss"] == "nan" and 0 < float(lines[1]["loss"]) < 10
    assert {line["step"] for line in lines} == {1}


class Root(LightningModule):
    """Has a root of zero for a batch of zeros: the loss is zero, its gradient infinite."""

    def __init__(self):
        super().__init__()
        self.line = nn.Linear(1, 1)

    def training_step(self, batch, batch_idx):
        prediction = self.line(batch)
        return (prediction - prediction.detach() + batch).sqrt().mean()

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.1)


def points(*values):
    return DataLoader(torch.tensor(values, dtype=torch.float32).view(-1, 1), batch_size=1)


def test_gradients_are_looked_at_where_the_loss_is_finite(tmp_path):
    skip = SkipNonFinite()
    with pytest.warns(match="Step 1 is skipped"):
        fit(tmp_path, Root(), skip, steps=3, data=points(1, 0, 3))
    assert (skip.skipped, skip.in_a_row) == (1, 0)
    assert json.loads((tmp_path / "non_finite.jsonl").read_text()) == {"step": 1, "rank": 0, "loss": "0.0", "keys": []}


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.filterwarnings("ignore:Step 2 is skipped")
def test_a_gradient_scaler_keeps_its_business(tmp_path, fused):
    class Line(Root):
        def training_step(self, batch, batch_idx):
            return self.line(batch).float().abs().mean()

        def configure_optimizers(self):
            return torch.optim.Adam(self.parameters(), lr=0.1, fused=fused)

    ema, skip, model = EMA(), SkipNonFinite(), Line()
    watch = Watch(ema)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**17)  # half precision ends before 2 ** 16
    precision = MixedPrecision("16-mixed", "cpu", scaler)
    fit(tmp_path, model, ema, watch, skip, Spoil(NAN, 2), steps=4, data=points(1, 1, 1, 1), plugins=[precision])
    first, second, spoiled, after = (state[0]["line.weight"] for state in watch.states)
    assert scaler.get_scale() == 2.0**14  # it overflowed twice, then came the NaN
    assert skip.skipped == 1
    assert torch.equal(first, second) and torch.equal(second, spoiled)
    assert not torch.equal(spoiled, after) and after.isfinite()


@pytest.mark.filterwarnings("ignore:Step .* is skipped")
def test_too_many_in_a_row_end_the_fit(tmp_path, component):
    expected = (
        r"step 4: .* 3 steps in a row, last on clip8, clip9 \(all are in .*non_finite\.jsonl\); lower model\.optim"
    )
    with pytest.raises(InputError, match=expected) as error:
        fit(tmp_path, component("motion"), Spoil(NAN, 0, 2, 3, 4), SkipNonFinite(max_in_a_row=3))
    assert "\n" not in str(error.value)
    assert len((tmp_path / "non_finite.jsonl").read_text().splitlines()) == 4


@pytest.mark.filterwarnings("ignore:Step .* is skipped")
def test_counts_survive_a_resume(tmp_path, component):
    model = component("motion")
    first = fit(tmp_path, model, Spoil(NAN, 1, 2), steps=3)
    first.save_checkpoint(tmp_path / "half.ckpt")
    second = SkipNonFinite(max_in_a_row=3)
    with pytest.raises(InputError, match=r"step 3: .* 3 steps in a row"):
        fit(tmp_path, model, second, Spoil(NAN, 3), resume=tmp_path / "half.ckpt")
    assert second.skipped == 3


def test_only_the_first_faults_are_warned_of(tmp_path):
    with pytest.warns() as warnings:
        fit(tmp_path, Root(), SkipNonFinite(20), steps=9, data=points(*[0] * 9))
    assert sum("is skipped" in str(warning.message) for warning in warnings) == 5
    assert len((tmp_path / "non_finite.jsonl").read_text().splitlines()) == 9


def test_every_component_brings_one_and_a_given_one_takes_its_place(tmp_path, component):
    own = SkipNonFinite(3)
    for given in ([], [own]):
        model = component("motion")
        trainer = fit(tmp_path, model, *given, steps=1)
        trainer.fit(model, DataLoader(Clips(), batch_size=2))
        found = [callback for callback in trainer.callbacks if isinstance(callback, SkipNonFinite)]
        assert len(found) == 1 and (not given or found == [own])


def test_wrong_use_is_reported():
    with pytest.raises(InputError, match="max_in_a_row 0: give at least 1"):
        SkipNonFinite(0)


@pytest.mark.parametrize("value", [NAN, INF])
def test_motion_that_is_not_finite_leaves_the_statistics(tiny_autoencoder, value):
    network = tiny_autoencoder()
    before = {name: buffer.clone() for name, buffer in network.named_buffers()}
    motion = torch.randn(2, 3, 5, 7)
    motion[1, 2, 3, 4] = value
    network.measure_motion(motion, momentum=0.5)
    assert_equal(before, dict(network.named_buffers()))
    network.measure_motion(motion.nan_to_num(0, 0, 0), momentum=0.5)
    assert not torch.equal(network.motion_mean, before["motion_mean"])
