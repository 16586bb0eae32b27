"""Training that a signal ends writes a checkpoint, and resumes from it bit for bit as if uninterrupted."""

import os
import signal
import stat
import subprocess
import sys

import pytest
import torch
from lightning.pytorch import Callback, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins.environments import SLURMEnvironment
from same import assert_same

from cmd_lightning.callbacks import EMA, LastCheckpoint
from cmd_lightning.callbacks.last_checkpoint import kept
from cmd_lightning.callbacks.whole_checkpoint import WholeCheckpointIO
from cmd_lightning.components import VideoAutoencoder
from cmd_lightning.data.webvid import WebVidDataModule
from cmd_lightning.shapes.synth import write_shapes

STEPS = 7  # an epoch is 4 batches
WATCHED = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
WHOLE = {}  # what uninterrupted training ends with, by its options


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    for split in ("train", "val"):
        write_shapes(folder / split, num=8, size=16, frames=8, fps=8.0, seed=0, split=split, shard_size=4)
    return folder


class Send(Callback):
    """Sends this process signals when a hook is called for the nth time."""

    def __init__(self, hook, n, *numbers):
        self.left, self.numbers = n, numbers
        setattr(self, hook, self.called)

    def called(self, *_):
        self.left -= 1
        if self.left == 0:
            for number in self.numbers:
                os.kill(os.getpid(), number)


@pytest.fixture
def fit(tmp_path, shards, tiny_autoencoder):
    """Fits a small autoencoder in a folder, and gives back the last checkpoint's path."""

    def run(name, *callbacks, resume=None, **options):
        seed_everything(3, verbose=False)
        model = VideoAutoencoder(tiny_autoencoder, optimizer=lambda p: torch.optim.Adam(p, lr=0.01))
        data = WebVidDataModule(
            str(shards / "train"), str(shards / "val"), num_frames=5, size=(8, 12), batch_size=2, num_workers=0
        )
        options = {"val_check_interval": 2, "check_val_every_n_epoch": None, "num_sanity_val_steps": 0} | options
        last = LastCheckpoint(str(tmp_path / name), every_n_steps=100)
        trainer = Trainer(
            accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
            default_root_dir=tmp_path, callbacks=[last, EMA(), *callbacks], **{"max_steps": STEPS} | options,
        )  # fmt: skip
        trainer.fit(model, data, ckpt_path=resume)
        return last.path(trainer)

    return run


@pytest.mark.parametrize(
    ("hook", "n", "number", "saved", "options"),
    [
        ("on_train_batch_start", 1, signal.SIGTERM, 1, {}),
        ("on_before_optimizer_step", 3, signal.SIGUSR1, 3, {}),
        ("on_train_batch_end", 4, signal.SIGTERM, 4, {}),  # the last batch of an epoch
        ("on_validation_start", 1, signal.SIGINT, 2, {}),
        ("on_validation_batch_start", 4, signal.SIGTERM, 2, {}),  # the last of the validation
        ("on_validation_batch_start", 6, signal.SIGTERM, 4, {}),  # after the last batch of an epoch
        ("on_validation_end", 1, signal.SIGUSR1, 3, {}),
        ("on_train_epoch_end", 1, signal.SIGINT, 5, {}),
        ("on_train_batch_start", 3, signal.SIGTERM, 2, {"accumulate_grad_batches": 2}),
        ("on_validation_batch_start", 1, signal.SIGTERM, 2, {"accumulate_grad_batches": 2, "val_check_interval": 3}),
        ("on_train_end", 1, signal.SIGTERM, STEPS, {}),
    ],
)
def test_a_signal_ends_training_after_the_step_and_nothing_is_lost(fit, capsys, hook, n, number, saved, options):
    if str(options) not in WHOLE:
        WHOLE[str(options)] = torch.load(fit("whole", **options), weights_only=True)
    whole = WHOLE[str(options)]
    before = [signal.getsignal(number) for number in WATCHED]
    with pytest.raises(SystemExit) as end:
        fit("stopped", Send(hook, n, number), **options)
    assert end.value.code == 128 + number
    assert [signal.getsignal(number) for number in WATCHED] == before
    message = [line for line in capsys.readouterr().err.splitlines() if "resume with --ckpt_path last" in line]
    assert len(message) == 1
    assert message[0].startswith(f"cmd-lightning: {number.name} after step {saved}: ")
    path = message[0].split(": ")[2].split(" is written")[0]
    assert torch.load(path, weights_only=True)["global_step"] == saved

    resumed = torch.load(fit("resumed", resume=path, **options) if saved < STEPS else path, weights_only=True)
    for part in ("global_step", "state_dict", "ema", "optimizer_states", "lr_schedulers", "WebVidDataModule"):
        assert_same(whole[part], resumed[part], part)


def test_a_signal_before_the_first_step_leaves_nothing(fit, tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        fit("stopped", Send("on_validation_batch_start", 1, signal.SIGTERM), num_sanity_val_steps=2)
    assert end.value.code == 143
    assert "SIGTERM after step 0: nothing to save" in capsys.readouterr().err
    assert not (tmp_path / "stopped").exists()


def test_the_handlers_of_before_are_back_after_an_error_too(fit):
    class Fails(Callback):
        def on_train_batch_start(self, *_):
            assert signal.getsignal(signal.SIGINT) is not signal.default_int_handler
            raise ZeroDivisionError

    before = [signal.getsignal(number) for number in WATCHED]
    with pytest.raises(ZeroDivisionError):
        fit("failed", Fails())
    assert [signal.getsignal(number) for number in WATCHED] == before
    fit("whole")
    assert [signal.getsignal(number) for number in WATCHED] == before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_the_process_at_once(fit, number):
    child = os.fork()
    if child == 0:
        try:
            torch.set_num_threads(1)  # those of before the fork are gone, and would be waited for
            fit("stopped", Send("on_train_batch_start", 1, number, number))
        finally:
            os._exit(99)
    status = os.waitpid(child, 0)[1]
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == number


@pytest.mark.parametrize("array", [False, True])
@pytest.mark.parametrize(("number", "requeued"), [(signal.SIGUSR2, True), (signal.SIGTERM, False)])
def test_slurm_requeues_the_job_after_its_signal(fit, tmp_path, monkeypatch, array, number, requeued):
    asked = tmp_path / "asked"
    program = tmp_path / "bin" / "scontrol"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\ntest -f "{tmp_path}/stopped/last.ckpt" && echo "$@" >> "{asked}"\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)
    environment = {"SLURM_JOB_ID": "41", "SLURM_NTASKS": "1", "SLURM_LOCALID": "0", "SLURM_PROCID": "0"}
    environment |= {"SLURM_NODEID": "0", "SLURM_NODELIST": "localhost", "SLURM_JOB_NAME": "fit"}
    environment |= {"SLURM_ARRAY_JOB_ID": "40", "SLURM_ARRAY_TASK_ID": "3"} if array else {}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as end:
        fit(
            "stopped",
            Send("on_train_batch_start", 2, number),
            plugins=[SLURMEnvironment(requeue_signal=signal.SIGUSR2)],
        )
    assert end.value.code == 128 + number
    if requeued:
        assert asked.read_text() == ("requeue 40_3\n" if array else "requeue 41\n")
    assert asked.exists() == requeued
    assert not list(tmp_path.rglob("hpc_ckpt*"))


def steps_of(path):
    return torch.load(path, weights_only=True)["global_step"]


def reports(capsys):
    """What was reported of another run's checkpoint."""
    return [line for line in capsys.readouterr().err.splitlines() if "of another run" in line]


def test_the_checkpoint_of_another_run_is_kept_and_reported(fit, tmp_path, capsys):
    folder = tmp_path / "run"
    last = fit("run", max_steps=1)
    assert reports(capsys) == []
    assert fit("run", max_steps=2) == last == folder / "last.ckpt"
    [warned, message] = reports(capsys)
    assert f"{last} of another run will be renamed" in warned and "--ckpt_path last" in warned
    assert message.endswith(f"{last} of another run is kept as {folder / 'last-1.ckpt'}")
    (folder / "last-2.ckpt").write_text("the user's own")
    fit("run", max_steps=3)
    # One that was resumed from another file than last.ckpt keeps that too; one from last.ckpt goes over it.
    fit("run", resume=folder / "last-1.ckpt", max_steps=4)
    capsys.readouterr()
    fit("run", resume=last, max_steps=5)
    (tmp_path / "link").symlink_to(folder)
    fit("run", resume=tmp_path / "link" / "last.ckpt", max_steps=6)
    assert reports(capsys) == []
    kept = {path.name: steps_of(path) for path in folder.iterdir() if path.stat().st_size > 100}
    assert kept == {"last.ckpt": 6, "last-1.ckpt": 1, "last-3.ckpt": 2, "last-4.ckpt": 3}
    assert (folder / "last-2.ckpt").read_text() == "the user's own"


def test_training_that_saves_nothing_leaves_the_checkpoint_of_another_run(fit, capsys):
    last = fit("run", max_steps=1)
    with pytest.raises(SystemExit):
        fit("run", Send("on_validation_batch_start", 1, signal.SIGINT), num_sanity_val_steps=2)
    assert [path.name for path in last.parent.iterdir()] == ["last.ckpt"]
    assert steps_of(last) == 1


@pytest.mark.parametrize("links", [True, False])
def test_a_checkpoint_gets_a_free_name(tmp_path, monkeypatch, links):
    if not links:  # as on a FAT disk

        def refuse(*_):
            raise PermissionError

        monkeypatch.setattr(os, "link", refuse)
    (tmp_path / "last-1.ckpt").symlink_to(tmp_path / "none")  # nobody's file, but somebody's name
    (tmp_path / "last.ckpt").write_text("old")
    assert kept(tmp_path / "last.ckpt") == tmp_path / "last-2.ckpt"
    assert (tmp_path / "last-2.ckpt").read_text() == "old"
    assert (tmp_path / "last.ckpt").exists() == links


def test_by_default_the_checkpoint_goes_to_the_folder_of_the_trainer(tmp_path):
    last = LastCheckpoint()
    for name in ("one", "two"):
        assert last.path(Trainer(default_root_dir=tmp_path / name, logger=False)) == tmp_path / name / "last.ckpt"


RANKS = """
import os, signal, sys
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from cmd_lightning.callbacks import LastCheckpoint

class Line(LightningModule):
    def __init__(self):
        super().__init__()
        self.line = torch.nn.Linear(1, 1)

    def training_step(self, batch, batch_idx):
        if self.global_step == 3 and self.global_rank == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return self.line(batch).mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

if __name__ == "__main__":
    trainer = Trainer(
        accelerator="cpu", devices=2, strategy="ddp", max_steps=9, logger=False, enable_progress_bar=False,
        callbacks=[LastCheckpoint(sys.argv[1])], default_root_dir=sys.argv[1],
    )
    trainer.fit(Line(), torch.utils.data.DataLoader(torch.randn(64, 1), batch_size=1))
"""


@pytest.mark.slow
def test_all_processes_end_after_the_same_step_though_one_was_signalled(tmp_path):
    (tmp_path / "ranks.py").write_text(RANKS)
    (tmp_path / "last.ckpt").write_text("of another run")
    ended = subprocess.run(
        [sys.executable, "ranks.py", str(tmp_path)], cwd=tmp_path, env=os.environ | {"PYTHONPATH": os.getcwd()},
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert ended.returncode == 143, ended.stderr
    assert ended.stderr.count("cmd-lightning: SIGTERM after step 4: ") == 1
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 4
    assert [path.read_text() for path in tmp_path.glob("last-*")] == ["of another run"]
    assert ended.stderr.count("is kept as") == 1


def test_all_checkpoints_of_the_trainer_are_whole_ones(fit, tmp_path, monkeypatch):
    written = []
    save = WholeCheckpointIO.save_checkpoint

    def note(self, checkpoint, path, storage_options=None):
        written.append(os.path.basename(path))
        save(self, checkpoint, path)

    monkeypatch.setattr(WholeCheckpointIO, "save_checkpoint", note)
    fit("both", ModelCheckpoint(tmp_path / "both", filename="{step}", every_n_train_steps=3, save_top_k=-1))
    assert written == ["step=3.ckpt", "step=6.ckpt", "last.ckpt"]
