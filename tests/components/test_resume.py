"""Training that is stopped and resumed ends with the weights of an uninterrupted run, bit for bit."""

import pytest
import torch
from lightning.pytorch import Callback
from same import assert_same
from training_configs import AUTOENCODER, config, motion, motion_student

from cmd_lightning.cli import main
from cmd_lightning.shapes.synth import write_shapes

STEPS, STOP = 7, 4  # 13 clips in batches of 2 are 7 batches per epoch


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    write_shapes(folder, num=13, size=16, frames=8, fps=8.0, seed=0, split="train", shard_size=5)
    return folder


def fit(folder, model, shards, workers, steps, checkpoint=None, limit="max_steps", more=()):
    """Fits up to `steps`, or by another limit, and returns the path of the checkpoint that is there after `steps`."""
    folder.mkdir(parents=True)
    limit = f"max_steps={steps}" if limit == "max_steps" else limit
    arguments = ["fit", "-c", config(folder, model, shards, workers), f"--trainer.{limit}", *more]
    assert main(arguments + (["--ckpt_path", str(checkpoint)] if checkpoint else [])) == 0
    return folder / f"step={steps}.ckpt"


def assert_resumes(folder, model, shards, workers, steps, stop):
    """A run of `steps`, one stopped after `stop` and resumed, and one resumed from the first checkpoint agree."""
    whole = fit(folder / "whole", model, shards, workers, steps)
    stopped = fit(folder / "stopped", model, shards, workers, stop)
    midway = whole.with_name(f"step={stop}.ckpt")
    start, end = (torch.load(path, weights_only=True) for path in (midway, whole))
    at_the_end = stopped.with_name("last.ckpt")  # written when `max_steps` stopped it, within an epoch
    for name, checkpoint in (("resumed", stopped), ("killed", midway), ("ended", at_the_end)):
        path = fit(folder / name, model, shards, workers, steps, checkpoint)
        compare(end, torch.load(path, weights_only=True), start)


def compare(whole, resumed, start):
    for part in ("state_dict", "ema", "optimizer_states", "lr_schedulers", "WebVidDataModule"):
        assert part in whole, sorted(whole)
        assert_same(whole[part], resumed[part], part)
    assert any(not torch.equal(whole["state_dict"][k], start["state_dict"][k]) for k in start["state_dict"])


@pytest.mark.parametrize("workers", [0, 2])
def test_autoencoder(tmp_path, shards, workers):
    assert_resumes(tmp_path, AUTOENCODER, shards, workers, STEPS, STOP)


class Stop(Callback):
    """Asks for an end after so many batches, as Lightning's timer for `max_time` does."""

    def __init__(self, batches: int) -> None:
        self.batches = batches

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        trainer.should_stop = trainer.should_stop or trainer.fit_loop.epoch_loop.total_batch_idx + 1 >= self.batches


def test_stopped_by_time_within_an_epoch_and_amid_accumulated_gradients(tmp_path, shards):
    accumulate = ["--trainer.accumulate_grad_batches", "3"]  # of 7 batches per epoch: steps of 3, 3 and 1
    whole = fit(tmp_path / "whole", AUTOENCODER, shards, 0, 6, limit="max_epochs=2", more=accumulate)
    stop = [*accumulate, "--trainer.callbacks+", "test_resume.Stop", "--trainer.callbacks.batches", "4"]
    last = fit(tmp_path / "stopped", AUTOENCODER, shards, 0, 2, limit="max_epochs=2", more=stop).with_name("last.ckpt")
    assert torch.load(last, weights_only=True)["global_step"] == 2  # not in the midst of the second step
    resumed = fit(tmp_path / "resumed", AUTOENCODER, shards, 0, 6, last, limit="max_epochs=2", more=accumulate)
    start, end = (torch.load(path, weights_only=True) for path in (last, whole))
    compare(end, torch.load(resumed, weights_only=True), start)


@pytest.mark.parametrize("limit", ["max_steps", pytest.param("max_epochs=2", marks=pytest.mark.slow)])
def test_stopped_by_max_steps_within_or_at_the_end_of_an_epoch(tmp_path, shards, limit):
    whole = fit(tmp_path / "whole", AUTOENCODER, shards, 0, 14, limit=limit)
    start, end = (torch.load(path, weights_only=True) for path in (whole.with_name("step=4.ckpt"), whole))
    for stop in (4, STEPS):
        last = fit(tmp_path / f"until {stop}", AUTOENCODER, shards, 0, stop).with_name("last.ckpt")
        path = fit(tmp_path / f"from {stop}", AUTOENCODER, shards, 0, 14, last, limit)
        compare(end, torch.load(path, weights_only=True), start)


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_motion_with_random_draws_over_an_epoch_boundary(tmp_path, shards, workers):
    autoencoder = fit(tmp_path / "first", AUTOENCODER, shards, 0, 1)
    assert_resumes(tmp_path, motion(autoencoder), shards, workers, steps=9, stop=5)


@pytest.mark.slow
def test_a_student_over_an_epoch_boundary(tmp_path, shards):
    autoencoder = fit(tmp_path / "first", AUTOENCODER, shards, 0, 1)
    teacher = fit(tmp_path / "teacher", motion(autoencoder), shards, 0, 1)
    assert_resumes(tmp_path, motion_student(teacher), shards, 0, steps=9, stop=5)
