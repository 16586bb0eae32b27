"""The checkpoint to resume from: written every few hundred steps, and when training ends or is interrupted."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import threading
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.plugins.environments import SLURMEnvironment
from lightning.pytorch.trainer.states import TrainerFn

from cmd_lightning.callbacks.whole_checkpoint import WholeCheckpointIO
from cmd_lightning.compat import cluster_environment
from cmd_lightning.errors import InputError
from cmd_lightning.progress import notify


class LastCheckpoint(Checkpoint):
    """Writes `<folder>/last.ckpt`, over the one before; `ckpt_path: last` resumes from it.

    Lightning's `ModelCheckpoint` keeps several and chooses by a score, but none at the end of training that `max_steps`
    or `max_time` stops between two of its dates.

    - A `last.ckpt` that this run neither wrote nor resumed from belongs to another run: the first save renames it to
      `last-1.ckpt`, or the next free number, and reports it.
    - This and all other checkpoints of the Trainer are whole files or not there, see `WholeCheckpointIO`.
    - SIGTERM, SIGUSR1 (under SLURM the `requeue_signal`) or Ctrl-C let the step that runs end, write the checkpoint and
      leave with `SystemExit` of 128 and the signal's number; under SLURM the `requeue_signal` requeues the job. A
      second SIGTERM or Ctrl-C ends the process at once. Lightning's own handlers save from within the handler, amid a
      step, and wait there for other processes; it puts the handlers of before back when the fit ends.

    Args:
        folder: Where the checkpoint goes; the trainer's `default_root_dir` by default.
        every_n_steps: Optimiser steps from one to the next.
    """

    def __init__(self, folder: str | None = None, every_n_steps: int = 500) -> None:
        if every_n_steps < 1:
            raise InputError(f"LastCheckpoint every_n_steps {every_n_steps}: give at least 1")
        self.folder = folder
        self.every_n_steps = every_n_steps
        self._own: Path | None = None  # the file of this run
        self._trainer: Trainer | None = None
        self._saved = 0
        self._last_step = 0
        self._whole = True  # no gradients wait for a step that is still to come
        self._ends = False  # by `max_time`, or somebody's wish
        self._signal = 0  # the first that has come

    def path(self, trainer: Trainer) -> Path:
        """The file that the callback writes in a run of `trainer`."""
        return Path(self.folder or trainer.default_root_dir, "last.ckpt")

    @property
    def best_model_path(self) -> str:
        """The path of `ckpt_path: best`, which Lightning asks the first checkpoint callback for: another one's."""
        callbacks = getattr(self._trainer, "checkpoint_callbacks", ())
        found = (getattr(other, "best_model_path", "") for other in callbacks if other is not self)
        return next((path for path in found if path), "")

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Has the Trainer write and read whole checkpoints; strategies with another format keep it."""
        self._trainer = trainer
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            trainer.strategy.checkpoint_io = WholeCheckpointIO()
        self._signal = 0

    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Heeds signals from the start."""
        self._begin(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count from where a resumed run begins, and reports a checkpoint of another run."""
        self._begin(trainer)
        path, resumed = self.path(trainer), trainer.ckpt_path
        continues = path.exists() and resumed and os.path.exists(resumed) and path.samefile(resumed)
        again = trainer.global_step and self._own == path  # a second fit of one Trainer
        self._own = path if continues or again else None
        if trainer.is_global_zero and path.exists() and not self._own:
            notify(f"{path} of another run will be renamed; to resume that run instead, give --ckpt_path last")
        self._stop_if_asked(trainer)  # a signal may have come since the sanity check

    def on_train_batch_end(self, trainer: Trainer, *_: Any, **__: Any) -> None:
        """Saves every `every_n_steps`, at the end and on a signal; not for batches that accumulate into one step."""
        self._whole = trainer.global_step != self._last_step
        self._last_step = trainer.global_step
        # At the fit's end Lightning counts the epoch as over, though `max_steps` or `max_time` may have cut it short:
        # what is saved then cannot resume within it.
        self._ends |= trainer.should_stop
        trainer.should_stop = self._ends and self._whole  # not while gradients wait for their step
        if self._whole and (
            self._ends or trainer.global_step == trainer.max_steps or trainer.global_step % self.every_n_steps == 0
        ):
            self._save(trainer)
        self._stop_if_asked(trainer)

    def on_validation_batch_end(self, trainer: Trainer, *_: Any, **__: Any) -> None:
        """Handle signals during validation; the resumed run skips the rest of it."""
        if trainer.state.fn == TrainerFn.FITTING:
            self._stop_if_asked(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Saves what was trained since."""
        self._save(trainer)
        self._stop_if_asked(trainer)

    def _begin(self, trainer: Trainer) -> None:
        self._saved = self._last_step = trainer.global_step
        self._whole, self._ends = True, False
        fast = trainer.fast_dev_run  # type: ignore[attr-defined]  # Lightning sets it from elsewhere
        if not fast and threading.current_thread() is threading.main_thread():  # others may not; Lightning's are set
            slurm = _slurm(trainer)
            requeue = (slurm and slurm.requeue_signal) or getattr(signal, "SIGUSR1", None)  # None: on Windows
            for number in filter(None, (signal.SIGTERM, signal.SIGINT, requeue)):
                signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._signal = self._signal or number
        # No print: a handler may interrupt one.
        os.write(2, f"cmd-lightning: {signal.Signals(number).name}: the fit ends after this step\n".encode())
        if number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)

    def _save(self, trainer: Trainer) -> None:
        fast = trainer.fast_dev_run  # type: ignore[attr-defined]  # Lightning sets it from elsewhere
        if trainer.global_step != self._saved and not fast:
            self._saved = trainer.global_step
            path = self.path(trainer)
            if self._own is None:
                self._own = path
                if trainer.is_global_zero and path.exists():
                    notify(f"{path} of another run is kept as {kept(path)}")
                trainer.strategy.barrier("LastCheckpoint")  # some strategies have every process write
            trainer.save_checkpoint(path, weights_only=False)  # the optimiser's state and all

    def _stop_if_asked(self, trainer: Trainer) -> None:
        """Saves and leaves if a signal has come, on any process, and no gradients would be lost."""
        if not self._whole:
            return
        number = self._signal
        if trainer.world_size > 1:
            latest = torch.tensor(number, device=trainer.strategy.root_device)
            number = int(trainer.strategy.reduce(latest, reduce_op="max"))
        if not number:
            return
        self._save(trainer)
        if trainer.is_global_zero:
            path = self.path(trainer)
            told = f"{path} is written; resume with --ckpt_path last" if trainer.global_step else "nothing to save"
            notify(f"{signal.Signals(number).name} after step {trainer.global_step}: {told}")
            slurm = _slurm(trainer)
            if slurm and slurm.auto_requeue and number == slurm.requeue_signal:
                _requeue()
        trainer.strategy.barrier("LastCheckpoint")  # a process that is gone would take the others with it
        raise SystemExit(128 + number)


def kept(path: Path) -> Path:
    """Give what is at `path` another name in its folder: last-1.ckpt for last.ckpt, or the next that is free."""
    for number in itertools.count(1):
        other = path.with_name(f"{path.stem}-{number}{path.suffix}")
        if os.path.lexists(other):
            continue
        try:
            os.link(path, other)  # so that there is a file at `path` at any time
        except FileExistsError:
            continue
        except OSError:  # a disk without links
            path.rename(other)
        return other
    raise AssertionError  # numbers do not end


def _slurm(trainer: Trainer) -> SLURMEnvironment | None:
    environment = cluster_environment(trainer)
    return environment if isinstance(environment, SLURMEnvironment) else None


def _requeue() -> None:
    """Puts the SLURM job back into the queue."""
    job = os.environ["SLURM_JOB_ID"]
    if "SLURM_ARRAY_JOB_ID" in os.environ:
        job = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    try:
        subprocess.run(["scontrol", "requeue", job], check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        notify(f"the job is not requeued ({error}); submit it again")
