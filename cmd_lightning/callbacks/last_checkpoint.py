"""The one checkpoint to go on from: written now and then, and when a fit ends, however it ends its last step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from cmd_lightning.errors import InputError


class LastCheckpoint(Checkpoint):
    """Writes `<folder>/last.ckpt`, over the one before.

    Lightning's `ModelCheckpoint` keeps several and chooses by a score, but none at the end of a fit that `max_steps`
    or `max_time` stops between two of its dates.

    Args:
        folder: Where the checkpoint goes.
        every_n_steps: Optimiser steps from one to the next.
    """

    def __init__(self, folder: str, every_n_steps: int = 500) -> None:
        if every_n_steps < 1:
            raise InputError(f"LastCheckpoint every_n_steps {every_n_steps}: give at least 1")
        self.path = Path(folder, "last.ckpt")
        self.every_n_steps = every_n_steps
        self._saved = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Counts from where a resumed fit begins."""
        self._saved = trainer.global_step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Saves if the date has come; not again for the batches that accumulate into one step."""
        if trainer.global_step % self.every_n_steps == 0:
            self._save(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Saves what was trained since."""
        self._save(trainer)

    def _save(self, trainer: Trainer) -> None:
        if trainer.global_step != self._saved and not trainer.fast_dev_run:
            self._saved = trainer.global_step
            trainer.save_checkpoint(self.path)
