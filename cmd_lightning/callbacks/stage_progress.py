"""Progress bars of whole runs: stage, step, total steps and remaining time."""

from __future__ import annotations

import re
import sys
import threading
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from torch.distributed.fsdp import FSDPModule
from tqdm import tqdm

SECONDS = 1.0  # at most between two moves of a bar


class StageProgress(ProgressBar):
    """A progress bar for all training steps, and one for the batches of validation, test and prediction.

    It is on standard error, and moves at least once per second, also while a batch takes longer.
    """

    def __init__(self) -> None:
        super().__init__()
        self._bars: list[tqdm] = []  # nested, such as validation within training
        self._shown = True
        self._beat: threading.Event | None = None

    def disable(self) -> None:
        """Shows nothing, as Lightning asks for on all processes but the first."""
        self._shown = False

    def enable(self) -> None:
        """Shows bars again."""
        self._shown = True

    def print(self, *args: Any, **kwargs: Any) -> None:
        """Prints without damage to the bar."""
        tqdm.write(" ".join(map(str, args)), file=sys.stderr)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Counts optimiser steps, or batches where it is not known how many steps there will be."""
        self._open(f"fit {stage_name(pl_module)}", total_steps(trainer), unit="step", initial=trainer.global_step)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any, **__: Any) -> None:
        """Moves to the step that is done, with what the module logs for the bar."""
        if self._bars:
            bar = self._bars[0]
            figures = {name: value for name, value in self.get_metrics(trainer, pl_module).items() if name != "v_num"}
            bar.set_postfix(figures, refresh=False)
            bar.update(trainer.global_step - bar.n)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Counts the batches of all loaders."""
        batches = trainer.num_sanity_val_batches if trainer.sanity_checking else trainer.num_val_batches
        what = "check" if trainer.sanity_checking else "validate"
        self._open(f"{what} {stage_name(pl_module)}", count(batches), leave=False)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Counts the batches of all loaders."""
        self._open(f"test {stage_name(pl_module)}", count(trainer.num_test_batches))

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Counts the batches of all loaders."""
        self._open(f"predict {stage_name(pl_module)}", count(trainer.num_predict_batches))

    def on_validation_batch_end(self, *_: Any, **__: Any) -> None:
        """Moves on by a batch."""
        if self._bars:
            self._bars[-1].update()

    on_test_batch_end = on_predict_batch_end = on_validation_batch_end

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leaves the bar as it is."""
        self._close()

    on_validation_end = on_test_end = on_predict_end = on_train_end

    def on_exception(self, *_: Any) -> None:
        """Leaves all bars as they are."""
        while self._bars:
            self._close()

    def _open(self, name: str, total: int | None, unit: str = "batch", leave: bool = True, initial: int = 0) -> None:
        if not self._shown:
            return
        self._bars.append(
            tqdm(
                desc=name, total=total, initial=initial, unit=unit, leave=leave, position=len(self._bars),
                file=sys.stderr, dynamic_ncols=True, mininterval=SECONDS / 2, smoothing=0.05,
            )
        )  # fmt: skip
        if self._beat is None:
            self._beat = threading.Event()
            threading.Thread(target=self._refresh, args=(self._beat,), daemon=True).start()

    def _close(self) -> None:
        if self._bars:
            self._bars.pop().close()
        if not self._bars and self._beat is not None:
            self._beat.set()
            self._beat = None

    def _refresh(self, ended: threading.Event) -> None:
        """Moves the clock of the innermost bar on."""
        while not ended.wait(SECONDS):
            for bar in self._bars[-1:]:
                bar.refresh()


def stage_name(module: LightningModule) -> str:
    """What a bar calls a module: its stage, or its class."""
    own = type(module).__name__
    own = own.removeprefix("FSDP") if isinstance(module, FSDPModule) else own  # torch puts it before what is sharded
    return getattr(module, "stage", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", own))


def total_steps(trainer: Trainer) -> int | None:
    """Total optimiser steps, if the limits of the Trainer define them; else None."""
    steps = trainer.estimated_stepping_batches
    return None if steps in (-1, float("inf")) else int(steps)


def count(batches: list[int | float] | int | float) -> int | None:
    """The batches of all loaders; None where the length of one is not known."""
    number = sum(batches) if isinstance(batches, list) else batches
    return None if number == float("inf") else int(number)
