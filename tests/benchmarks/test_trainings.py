"""Trainings of benchmarks: each once, resumed, and stopped by steps or by CPU seconds."""

import time

import pytest
import torch
import yaml
from lightning import LightningModule, Trainer

from benchmarks import cpu_clock
from benchmarks.cpu_clock import CPUClock
from benchmarks.trainings import TimeIsUp, Trained, Trainings, placed
from cmd_lightning.errors import InputError

CONFIG = {
    "model": {"init_args": {"schedule": {"init_args": {"warmup_steps": 7, "decay": "cosine"}}}},
    "trainer": {"logger": {"init_args": {}}, "callbacks": [{"class_path": "LastCheckpoint"}]},
}


class Fit:
    """Stands for `cmd-lightning fit`: every call trains some steps more, two CPU seconds each."""

    def __init__(self, steps, code=0, clock=True):
        self.steps, self.code, self.clock, self.commands = steps, code, clock, []

    def __call__(self, words, output):
        self.commands.append(words)
        path = output.parent / "last.ckpt"
        done = Trained.of(path).steps + self.steps
        callbacks = {"CPUClock": {"seconds": 2.0 * done}} if self.clock else {}
        torch.save({"global_step": done, "callbacks": callbacks}, path)
        return self.code


def test_a_stage_resumes_until_it_has_all_steps(tmp_path):
    fit = Fit(6)
    trainings = Trainings(time.monotonic() + 100, fit)
    config = placed(CONFIG, tmp_path / "stage", seed=3, steps=10)
    with pytest.raises(TimeIsUp):
        trainings.finished(config)
    for _ in range(2):
        trained = trainings.finished(config)
        assert (trained.steps, trained.seconds) == (12, 24.0)
    assert len(fit.commands) == 2
    assert all(words[words.index("--ckpt_path") + 1] == "last" for words in fit.commands)
    assert yaml.safe_load((tmp_path / "stage/config.yaml").read_text()) == config


def test_a_limit_ends_a_stage(tmp_path):
    trainings = Trainings(time.monotonic() + 100, Fit(6))
    assert trainings.finished(placed(CONFIG, tmp_path / "a", 0, 1000, limit=12)).steps == 6
    with pytest.raises(TimeIsUp):
        trainings.finished(placed(CONFIG, tmp_path / "b", 0, 1000, limit=13))


def test_the_length_of_a_stage_is_that_of_its_cosine(tmp_path):
    config = placed(CONFIG, tmp_path, seed=3, steps=50)
    schedule = config["model"]["init_args"]["schedule"]["init_args"]
    assert schedule == {"warmup_steps": 5, "decay": "cosine", "total_steps": 50}
    assert (config["seed_everything"], config["trainer"]["max_steps"]) == (3, 50)
    assert (
        config["trainer"]["default_root_dir"] == config["trainer"]["logger"]["init_args"]["save_dir"] == str(tmp_path)
    )
    limited = placed(CONFIG, tmp_path, seed=3, steps=50, limit=9.5)
    assert limited["model"]["init_args"]["schedule"]["init_args"] == {"warmup_steps": 5}
    assert limited["trainer"]["callbacks"][0]["init_args"] == {"limit": 9.5}
    assert "total_steps" not in str(CONFIG)


def test_nothing_begins_after_the_deadline_and_failures_are_reported(tmp_path):
    config = placed(CONFIG, tmp_path, 0, 10)
    with pytest.raises(TimeIsUp):
        Trainings(time.monotonic(), Fit(20)).finished(config)
    with pytest.raises(InputError, match=r"ended with code 2; .*output\.txt has its messages"):
        Trainings(time.monotonic() + 100, Fit(20, code=2)).finished(config)


def test_a_checkpoint_without_a_clock_is_rejected(tmp_path):
    trainings = Trainings(time.monotonic() + 100, Fit(20, clock=False))
    with pytest.raises(InputError, match="it has no CPU seconds; remove"):
        trainings.finished(placed(CONFIG, tmp_path, 0, 10))


def test_seconds_before_there_was_a_clock_count(tmp_path):
    trainings = Trainings(time.monotonic() + 100, Fit(20, clock=False))
    (tmp_path / "cpu_seconds.json").write_text("7.5")
    assert trainings.finished(placed(CONFIG, tmp_path, 0, 10)).seconds == 7.5
    trainings.fit = Fit(20)
    assert trainings.finished(placed(CONFIG, tmp_path, 0, 40)).seconds == 7.5 + 80


class Steps(LightningModule):
    """Counts its steps."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def training_step(self, batch, index):
        return self.weight.sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def train_dataloader(self):
        return [torch.zeros(1)] * 10


def fitted(clock, folder, path=None, steps=10):
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    options = quiet | {"accelerator": "cpu", "enable_checkpointing": False, "default_root_dir": folder}
    trainer = Trainer(max_steps=steps, callbacks=[clock], **options)
    trainer.fit(Steps(), ckpt_path=path)
    return trainer


def test_seconds_continue_over_checkpoints_and_end_at_the_limit(tmp_path, monkeypatch):
    seconds = iter(range(1000))
    monkeypatch.setattr(cpu_clock.time, "process_time", lambda: float(next(seconds)))
    first = fitted(CPUClock(), tmp_path, steps=3)
    path = tmp_path / "last.ckpt"
    first.save_checkpoint(path)
    kept = torch.load(path, weights_only=True)["callbacks"]["CPUClock"]["seconds"]
    assert 0 < kept < 1000
    seconds = iter(range(5000, 6000))  # another process
    clock = CPUClock(limit=kept + 4)
    second = fitted(clock, tmp_path, path)
    assert second.global_step == 3 + 4
    assert clock.seconds >= kept + 4


def test_a_limit_is_positive():
    with pytest.raises(InputError, match="CPUClock limit 0: give seconds above 0"):
        CPUClock(limit=0)
