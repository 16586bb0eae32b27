"""How fast training runs and how much memory it takes."""

from __future__ import annotations

import statistics
import sys
import time
from collections import deque
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

GIGABYTE = 1e9


class Throughput(Callback):
    """Logs clips per second, the time of an optimiser step and the peak memory, every `log_every_n_steps`.

    The figures are over the last `log_every_n_steps` optimiser steps of this run; they include the wait for
    data but not validation. CUDA runs behind Python, so that single steps are uneven there; no
    synchronisation is added for the measurement's sake, which would cost some of what it measures.

    - `throughput/clips_per_second`: of all processes together.
    - `throughput/step_seconds`: median.
    - `throughput/peak_cuda_gb`: the most memory that tensors took (10^9 bytes), of this process.
    - `throughput/peak_process_gb`: without CUDA, the most resident memory of the process.
    """

    def __init__(self) -> None:
        self._steps: deque[tuple[float, int]] = deque()  # seconds and clips of an optimiser step
        self._seconds, self._clips = 0.0, 0  # of the step that is under way
        self._mark = 0.0
        self._last_step = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts measuring."""
        every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]  # Lightning sets it from elsewhere
        self._steps = deque(maxlen=max(1, every))
        self._seconds, self._clips = 0.0, 0
        self._mark = time.perf_counter()  # a run that resumes within an epoch does not start one
        self._last_step = trainer.global_step
        if pl_module.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(pl_module.device)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leaves out what happened between two epochs, and the validation."""
        self._mark = time.perf_counter()

    on_validation_end = on_train_epoch_start

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Adds a batch; Lightning picks the logged value up when it is due."""
        now = time.perf_counter()
        clips = batch_size(batch)
        self._seconds += now - self._mark
        self._clips += clips
        self._mark = now
        if trainer.global_step == self._last_step:  # this batch only accumulated gradients
            return
        self._last_step = trainer.global_step
        self._steps.append((self._seconds, self._clips))
        self._seconds, self._clips = 0.0, 0

        seconds = [step[0] for step in self._steps]
        total = trainer.world_size * sum(step[1] for step in self._steps)
        figures = {
            "throughput/clips_per_second": total / sum(seconds),
            "throughput/step_seconds": statistics.median(seconds),
        } | peak_memory(pl_module.device)
        pl_module.log_dict(figures, on_step=True, on_epoch=False, batch_size=max(1, clips))


def peak_memory(device: torch.device) -> dict[str, float]:
    """The peak memory in 10^9 bytes under the name to log it by; empty where the system does not tell it."""
    if device.type == "cuda":
        return {"throughput/peak_cuda_gb": torch.cuda.max_memory_allocated(device) / GIGABYTE}
    try:
        import resource
    except ImportError:  # Windows does not tell it in this way
        return {}
    unit = 1 if sys.platform == "darwin" else 1024  # kibibytes on Linux
    return {"throughput/peak_process_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / GIGABYTE}


def batch_size(batch: Any) -> int:
    """The length of the first tensor with axes in a batch of mappings and sequences; 0 without such a tensor."""
    if isinstance(batch, Tensor):
        return len(batch) if batch.ndim else 0
    parts = batch.values() if isinstance(batch, dict) else batch if isinstance(batch, list | tuple) else ()
    return next((size for size in map(batch_size, parts) if size), 0)
