"""The CPU seconds of a training, kept in its checkpoints, so that interrupted and resumed runs are counted in full."""

from __future__ import annotations

import time
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from cmd_lightning.errors import InputError


class CPUClock(Callback):
    """Counts the CPU seconds of the process while it trains: loading, steps and validation, not imports.

    What is lost when a process is killed, the steps since its last checkpoint, is not counted, as it is trained again.

    Args:
        limit: Seconds after which training ends, in all runs together; by default it counts only.

    Attributes:
        spent: Seconds up to the last resume.

    Raises:
        InputError: The limit is not positive.
    """

    def __init__(self, limit: float | None = None) -> None:
        if limit is not None and not limit > 0:
            raise InputError(f"CPUClock limit {limit}: give seconds above 0, or leave it out")
        self.limit, self.spent = limit, 0.0
        self._begun: float | None = None

    @property
    def seconds(self) -> float:
        """Seconds so far."""
        return self.spent + (0.0 if self._begun is None else time.process_time() - self._begun)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts, or resumes, the clock."""
        self._begun = time.process_time()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Ends the training at the limit."""
        if self.limit is not None and self.seconds >= self.limit:
            trainer.should_stop = True

    def state_dict(self) -> dict[str, float]:
        """Seconds so far."""
        return {"seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, float]) -> None:
        """Takes over the seconds of the runs before."""
        self.spent = state_dict["seconds"]
