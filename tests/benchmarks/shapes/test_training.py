"""Training of the yardstick's networks: in many calls as in one, by their configs, and their saved files."""

import json
import sys
from functools import partialmethod
from pathlib import Path

import pytest
import torch
from lightning import Trainer
from lightning.pytorch.callbacks import Callback
from safetensors import safe_open
from torch import nn

from benchmarks.shapes.yardstick import clip, features, reader, save
from benchmarks.shapes.yardstick.training import Draws, Training
from cmd_lightning.callbacks import EMA, LastCheckpoint
from cmd_lightning.cli import main
from cmd_lightning.errors import InputError
from cmd_lightning.shapes.features import ShapesFeatures
from cmd_lightning.shapes.reader import ShapesReader
from cmd_lightning.shapes.sheets import SheetSimilarity

TRUTH = torch.tensor([[2.0, -1.0, 0.5]])
CONFIGS = Path("benchmarks/shapes/yardstick").resolve()


def draw(index):
    clips = torch.randn(16, 3, generator=torch.Generator().manual_seed(index))
    return clips, clips @ TRUTH.T


class Line(Training):
    WEIGHTS = "line"

    def __init__(self):
        torch.manual_seed(0)
        super().__init__(nn.Linear(3, 1), rate=0.05)

    def loss(self, clips, targets):
        return (self.network(clips) - targets).square().mean()


class StopAfterOne(Callback):
    """Ends training after its first step, as `max_time` does."""

    def on_train_batch_end(self, trainer, *_):
        trainer.should_stop = True


def fit(folder, steps, *callbacks, workers=0):
    """A call of a training run, from its checkpoint on; what it wrote."""
    path = folder / "last.ckpt"
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    trainer = Trainer(max_steps=steps, callbacks=[EMA(), *callbacks, LastCheckpoint(str(folder))], **quiet)
    trainer.fit(Line(), Draws(draw, workers), ckpt_path=path if path.is_file() else None, weights_only=True)
    return torch.load(path, weights_only=True)


@pytest.mark.parametrize("workers", [0, 2])
def test_short_calls_give_the_weights_of_a_long_one(tmp_path, workers):
    whole = fit(tmp_path / "long", 4)
    for step in range(1, 5):
        parts = fit(tmp_path / "short", 4, StopAfterOne(), workers=workers)
        assert parts["global_step"] == step
    assert whole["cmd"]["clips"] == parts["cmd"]["clips"] == 4 * 16
    for kind in ("state_dict", "ema"):
        assert all(torch.equal(whole[kind][name], parts[kind][name]) for name in whole[kind])


def test_other_options_do_not_resume_from_a_checkpoint(tmp_path):
    fit(tmp_path, 3)
    fit(tmp_path, 3)
    with pytest.raises(InputError, match="delete it to train from scratch"):
        fit(tmp_path, 4)


def test_it_learns(tmp_path):
    trained = fit(tmp_path, 300)["ema"]
    torch.testing.assert_close(trained["network.weight"], TRUTH, atol=0.05, rtol=0)


SMALL = {"reader": {"num": 4}, "features": {"batches": 1}, "clip": {"clips": 4}}
OPENED = {"reader": ShapesReader, "features": ShapesFeatures, "clip": SheetSimilarity}


@pytest.mark.parametrize("name", SMALL)
def test_a_config_trains_and_its_weights_are_saved(name, tmp_path, monkeypatch, capsys):
    module = {"reader": reader, "features": features, "clip": clip}[name]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module, "BATCH_SIZE", 4)
    training = save.NETWORKS[name]
    monkeypatch.setattr(training, "measure", partialmethod(training.measure, **SMALL[name]))
    quiet = ["--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false", "--ckpt_path=last"]
    config = ["--import", module.__name__, "-c", str(CONFIGS / f"{name}.yaml")]
    assert main(["fit", *config, "--trainer.max_steps=2", *quiet]) == 0
    monkeypatch.setattr(sys, "argv", ["save", name, "--out", "a.safetensors"])
    assert save.main() == 0
    OPENED[name].from_pretrained("a.safetensors")
    with safe_open("a.safetensors", "pt") as file:
        record = json.loads(file.metadata()["record"])
    assert (record["steps"], record["clips"], record["device"]) == (2, 8, "cpu")
    assert record["scores"].keys() == json.loads(shipped(name)["record"])["scores"].keys()
    assert len(capsys.readouterr().out.splitlines()) >= len(record["scores"])


def shipped(name):
    """The metadata of the weights that ship."""
    with safe_open(CONFIGS.parents[2] / "zoo" / "weights" / f"shapes_{name}.safetensors", "pt") as file:
        return file.metadata()


def test_unfinished_and_other_networks_are_not_saved(tmp_path, monkeypatch):
    fit(tmp_path, 2, StopAfterOne())
    monkeypatch.setattr(sys, "argv", ["save", "reader", "--checkpoint", str(tmp_path / "last.ckpt")])
    with pytest.raises(InputError, match=r"it is of line, not of shapes_reader\.safetensors; run `cmd-lightning fit"):
        save.main()
    monkeypatch.setattr(ShapesReader, "WEIGHTS", "line")
    monkeypatch.setattr(reader.ReaderTraining, "WEIGHTS", "line")
    with pytest.raises(InputError, match="step 1 of 2; run"):
        save.main()
