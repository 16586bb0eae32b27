"""Skip optimiser steps whose loss or gradients are NaN or infinite; end training after too many in a row."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor
from torch.optim import Optimizer

from cmd_lightning.callbacks.sharded_tensors import finite
from cmd_lightning.errors import InputError

WARNINGS = 5
"""So many faults are warned of; the file has them all."""


class SkipNonFinite(Callback):
    """Skips a step on all processes if a loss or a gradient of it is NaN or infinite on one of them.

    Weights, optimiser state and the average of `EMA` stay what they were; the step counts, and the learning-rate
    schedule moves on. With accumulated gradients the whole step is left out. Every `Component` brings this callback; an
    instance among the Trainer's callbacks takes its place. Under a gradient scaler (precision 16-mixed) gradients that
    overflow are its own business, and only losses are looked at.

    - `train/skipped_steps` is logged from the first skipped step on: how many so far.
    - `<default_root_dir>/non_finite.jsonl` gets a line for each batch of such a step and each process: `step` (steps
      done before), `rank`, `loss` (text: JSON has no NaN) and `keys`, the batch's clips.

    Args:
        max_in_a_row: The fit ends with an InputError after so many skipped steps without a sound one in between.
    """

    def __init__(self, max_in_a_row: int = 10) -> None:
        if max_in_a_row < 1:
            raise InputError(f"SkipNonFinite max_in_a_row {max_in_a_row}: give at least 1")
        self.max_in_a_row = max_in_a_row
        self.skipped, self.in_a_row = 0, 0
        self.skipping = False
        """Whether the latest step was skipped."""
        self._keys: list[str] = []  # of the batch under way
        self._batches: list[tuple[Tensor, list[str]]] = []  # losses and keys since the last step

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Keeps the batch's keys."""
        self._keys = list(batch.get("key", ())) if isinstance(batch, dict) else []

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """Keeps the loss; looking at it would wait for the GPU."""
        self._batches.append((loss.detach(), self._keys))

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Takes the gradients away if the step must not be done; torch's optimisers pass over weights without one."""
        batches, self._batches = self._batches, []
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        scaled = scaler is not None
        weights = [weight for group in optimizer.param_groups for weight in group["params"]]
        gradients = [] if scaled else [weight.grad for weight in weights if weight.grad is not None]
        self.skipping = not _sound(trainer, pl_module, [*(loss for loss, _ in batches), *gradients])
        if not self.skipping:
            self.in_a_row = 0
            return
        if not scaled:  # else the gradients are as the loss is, and the scaler skips them and keeps its accounts
            for weight in weights:
                weight.grad = None
        self.skipped += 1
        self.in_a_row += 1
        # Of a loss as Lightning hands it on: divided by the number of batches of a step, multiplied by the scale.
        factor = trainer.accumulate_grad_batches / (1.0 if scaler is None else scaler.get_scale())
        self._tell(trainer, [(loss.item() * factor, keys) for loss, keys in batches])

    def _tell(self, trainer: Trainer, batches: Sequence[tuple[float, list[str]]]) -> None:
        """Writes the skipped batches down, warns, and gives up when there are too many."""
        step, path = trainer.global_step, Path(trainer.default_root_dir, "non_finite.jsonl")
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "a", encoding="utf-8") as file:
            for loss, keys in batches:
                line = {"step": step, "rank": trainer.global_rank, "loss": str(loss), "keys": keys}
                file.write(json.dumps(line) + "\n")
        if self.in_a_row >= self.max_in_a_row:
            clips = [key for _, keys in batches for key in keys]
            last = ", ".join(clips[:4] + ["..."] * (len(clips) > 4)) or "batches without keys"
            raise InputError(
                f"step {step}: the loss or its gradients were NaN or infinite {self.in_a_row} steps in a row, last on "
                f"{last} (all are in {path}); "
                "lower model.optimizer's lr, look at these clips, or train with trainer.precision=32-true"
            )
        if self.skipped <= WARNINGS:
            rank_zero_warn(f"Step {step} is skipped, a loss or gradient is NaN or infinite; its clips are in {path}.")

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any, **__: Any) -> None:
        """Logs the number of skipped steps, if there are any."""
        if self.skipped:
            pl_module.log("train/skipped_steps", float(self.skipped), on_step=True, on_epoch=False, batch_size=1)

    def state_dict(self) -> dict[str, Any]:
        """The counts."""
        return {"skipped": self.skipped, "in_a_row": self.in_a_row}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores the counts."""
        self.skipped, self.in_a_row = state_dict["skipped"], state_dict["in_a_row"]


@torch.no_grad()
def _sound(trainer: Trainer, pl_module: LightningModule, tensors: list[Tensor]) -> bool:
    """Whether all is finite, on all processes; waits for the GPU once."""
    sound = finite(tensors)
    if trainer.world_size > 1:  # a loss can be NaN, and its gradients not
        sound = trainer.strategy.reduce(sound.to(pl_module.device, torch.float32), reduce_op="min")
    return bool(sound)
