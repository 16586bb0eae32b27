import warnings

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import FSDPStrategy
from torch import nn
from torch.utils.data import DataLoader

from cmd_lightning.callbacks import EMA
from cmd_lightning.errors import InputError


class Toy(LightningModule):
    """A trained layer with a tied twin, after a frozen one."""

    def __init__(self):
        super().__init__()
        self.frozen = nn.Linear(3, 3).requires_grad_(False)
        self.net = nn.Linear(3, 1)
        self.twin = self.net
        self.seen = {}

    def forward(self, x):
        return self.net(self.frozen(x))

    def training_step(self, batch, batch_idx):
        return self(batch).square().mean() + self(batch).mean()

    def validation_step(self, batch, batch_idx):
        self.seen["validation_step"] = self.net.weight.clone()

    def test_step(self, batch, batch_idx):
        self.seen["test_step"] = self.net.weight.clone()

    def predict_step(self, batch, batch_idx):
        self.seen["predict_step"] = self.net.weight.clone()

    def on_validation_epoch_end(self):
        self.seen["epoch_end"] = self.net.weight.clone()

    def configure_optimizers(self):
        return torch.optim.AdamW(self.net.parameters(), lr=0.1)


class Record(Callback):
    """Every batch's raw weights, from which the tests compute the average by hand."""

    def __init__(self):
        self.weights = []

    def on_train_start(self, trainer, pl_module):
        self.weights.append(pl_module.net.weight.detach().clone())

    def on_train_batch_end(self, trainer, pl_module, *_):
        self.weights.append(pl_module.net.weight.detach().clone())


def data():
    return DataLoader(torch.randn(12, 3, generator=torch.Generator().manual_seed(1)), batch_size=2)


def fit(tmp_path, *callbacks, model=None, ckpt_path=None, **options):
    model = model or Toy()
    options = {
        "max_epochs": 2,
        "enable_checkpointing": any(isinstance(c, ModelCheckpoint) for c in callbacks),
    } | options
    trainer = Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        default_root_dir=tmp_path, callbacks=list(callbacks), num_sanity_val_steps=0, **options,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(model, data(), data(), ckpt_path=ckpt_path)
    return trainer, model


def plain_average(weights, decay):
    average = weights[0].double()
    for n, weight in enumerate(weights[1:], start=1):
        d = min(decay, (1 + n) / (10 + n))
        average = d * average + (1 - d) * weight.double()
    return average.float()


@pytest.fixture(autouse=True)
def _seed():
    seed_everything(0, verbose=False)


@pytest.mark.parametrize("decay", [0.999, 0.3])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_average_is_the_plain_loop_once_per_optimiser_step(tmp_path, decay, accumulate):
    ema, record = EMA(decay), Record()
    trainer, _ = fit(tmp_path, record, ema, accumulate_grad_batches=accumulate)

    assert ema.updates == trainer.global_step == 12 // accumulate
    expected = plain_average(record.weights[::accumulate], decay)
    torch.testing.assert_close(ema.average["net.weight"], expected)
    assert (expected - record.weights[-1]).abs().max() > 1e-3  # else the comparison says nothing


def test_only_trainable_weights_are_kept_and_in_fp32(tmp_path):
    ema = EMA()
    fit(tmp_path, ema, precision="bf16-true")
    assert set(ema.average) == {"net.weight", "net.bias"}
    assert {average.dtype for average in ema.average.values()} == {torch.float32}


def test_evaluation_sees_the_average_and_training_the_raw_weights(tmp_path):
    ema, record = EMA(), Record()
    trainer, model = fit(tmp_path, record, ema)
    raw, average = record.weights[-1], ema.average["net.weight"]

    assert torch.equal(model.seen["validation_step"], average)
    assert torch.equal(model.seen["epoch_end"], average)
    trainer.test(model, data(), verbose=False)
    trainer.predict(model, data())
    assert torch.equal(model.seen["test_step"], average)
    assert torch.equal(model.seen["predict_step"], average)
    assert torch.equal(model.net.weight, raw) and not ema.swapped

    _, alone = fit(tmp_path, model=_fresh())
    _, averaged = fit(tmp_path, EMA(), model=_fresh())
    assert torch.equal(alone.net.weight, averaged.net.weight)


def _fresh():
    torch.manual_seed(3)
    return Toy()


def test_raw_weights_come_back_after_an_exception(tmp_path):
    class Fails(Toy):
        def on_validation_epoch_end(self):
            super().on_validation_epoch_end()
            raise RuntimeError("in validation")

    ema, record, model = EMA(), Record(), Fails()
    with pytest.raises(RuntimeError, match="in validation"):
        fit(tmp_path, record, ema, model=model)
    assert not torch.equal(model.seen["epoch_end"], record.weights[-1])
    assert torch.equal(model.net.weight, record.weights[-1])


def test_resume_is_bit_exact(tmp_path):
    whole = EMA()
    fit(tmp_path, whole, model=_fresh(), max_epochs=4)

    first = EMA()
    trainer, _ = fit(tmp_path, first, model=_fresh(), max_epochs=2)
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    second = EMA()
    fit(tmp_path, second, max_epochs=4, ckpt_path=tmp_path / "half.ckpt")

    assert second.updates == whole.updates == 24
    for name, average in whole.average.items():
        assert torch.equal(second.average[name], average)
        assert not torch.equal(first.average[name], average)


class SaveDuringValidation(Callback):
    def __init__(self, path):
        self.path = path

    def on_validation_epoch_end(self, trainer, pl_module):
        trainer.save_checkpoint(self.path)


def test_checkpoint_has_raw_weights_and_average_and_is_plain(tmp_path):
    ema, record = EMA(), Record()
    saver = SaveDuringValidation(tmp_path / "swapped.ckpt")
    at_end = ModelCheckpoint(tmp_path, filename="last", every_n_epochs=1, save_top_k=1)
    fit(tmp_path, record, ema, saver, at_end)

    for path in (saver.path, at_end.best_model_path):
        checkpoint = torch.load(path, weights_only=True)
        assert set(checkpoint["ema"]) == {"net.weight", "net.bias"}
        assert torch.equal(checkpoint["ema"]["net.weight"], ema.average["net.weight"])
        for name in ("net.weight", "twin.weight"):
            assert torch.equal(checkpoint["state_dict"][name], record.weights[-1])


def test_evaluation_from_a_checkpoint_uses_its_average(tmp_path):
    trained = EMA()
    trainer, _ = fit(tmp_path, trained)
    trainer.save_checkpoint(tmp_path / "trained.ckpt")
    for verb, step in (("validate", "validation_step"), ("test", "test_step"), ("predict", "predict_step")):
        model = Toy()
        fresh = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, callbacks=[EMA()])
        getattr(fresh, verb)(model, data(), ckpt_path=tmp_path / "trained.ckpt", weights_only=True)
        assert torch.equal(model.seen[step], trained.average["net.weight"])
        assert not torch.equal(model.net.weight, trained.average["net.weight"])


def test_checkpoint_without_average_starts_from_the_raw_weights(tmp_path):
    trainer, _ = fit(tmp_path)
    trainer.save_checkpoint(tmp_path / "plain.ckpt")
    ema, record = EMA(), Record()
    fit(tmp_path, ema, record, max_epochs=3, ckpt_path=tmp_path / "plain.ckpt")
    assert ema.updates == 6
    torch.testing.assert_close(ema.average["net.weight"], plain_average(record.weights, 0.999))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_bad_weight_does_not_enter(bad):
    model, ema = Toy(), EMA()
    assert ema.update(model)
    before = {name: average.clone() for name, average in ema.average.items()}
    with torch.no_grad():
        model.net.bias[0] = bad
    assert not ema.update(model)
    assert ema.updates == 1
    assert all(torch.equal(before[name], average) for name, average in ema.average.items())


def test_wrong_use_is_reported():
    with pytest.raises(InputError, match="decay=1"):
        EMA(1.0)
    with pytest.raises(InputError, match="sharded"):
        EMA().setup(type("T", (), {"strategy": FSDPStrategy()})(), Toy(), "fit")
