"""Training of the yardstick's networks: a LightningModule of a network and its loss, a DataModule of random clips.

The configs next to this file run with `cmd-lightning fit`; `save.py` measures the result and writes the weights.
"""

from __future__ import annotations

import itertools
import math
import time
from abc import abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import torch
from lightning import LightningDataModule, LightningModule
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from cmd_lightning.components.checkpoints import KEY
from cmd_lightning.data.loader import leave_signals
from cmd_lightning.errors import InputError

Targets = dict[str, Tensor]  # what is right for each clip of a batch, (B, ...), by the name of the attribute
Draw = Callable[[int], tuple[Tensor, Any]]  # batch number i: clips (B, ...) of floats in [0, 1], and what is right


class DrawStream(IterableDataset):
    """The batches of `draw` from number `first` on, without end."""

    def __init__(self, draw: Draw, first: int) -> None:
        super().__init__()
        self.draw, self.first = draw, first

    def __iter__(self) -> Iterator[tuple[Tensor, Any]]:
        info = get_worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        return map(self.draw, itertools.count(self.first + worker, workers))


class Draws(LightningDataModule):
    """A batch for each step, by its number alone: a resumed training run continues with the next one.

    Args:
        draw: Builds a batch.
        num_workers: Loader processes.
    """

    def __init__(self, draw: Draw, num_workers: int = 0) -> None:
        super().__init__()
        self.draw, self.num_workers = draw, num_workers

    def train_dataloader(self) -> DataLoader:
        """The batches from the Trainer's step on."""
        stream = DrawStream(self.draw, self.trainer.global_step)
        return DataLoader(stream, batch_size=None, num_workers=self.num_workers, worker_init_fn=leave_signals)


class Training(LightningModule):
    """A network with its loss, trained by Adam.

    The learning rate rises over 100 steps and falls along a cosine to 0 over `trainer.max_steps`.

    Args:
        network: To train.
        rate: Learning rate at its peak.
    """

    WEIGHTS: ClassVar[str]  # the file of the zoo that the weights go to

    def __init__(self, network: nn.Module, rate: float) -> None:
        super().__init__()
        self.network, self.rate = network, rate
        self._clips, self._seconds, self._begun = 0, 0.0, time.perf_counter()

    @abstractmethod
    def loss(self, clips: Tensor, targets: Any) -> Tensor:
        """The loss of a batch, a scalar."""

    @abstractmethod
    def measure(self) -> dict[str, float]:
        """Scores of the trained network on new clips."""

    def save(self, path: Path, record: dict[str, Any]) -> None:
        """Writes the weights, in half precision, and how they were trained to a safetensors file."""
        self.network.save_pretrained(path, record)

    def training_step(self, batch: tuple[Tensor, Any], batch_idx: int) -> Tensor:
        """The loss of a batch, which is logged."""
        loss = self.loss(*batch)
        self._clips += len(batch[0])
        self.log("loss", loss, prog_bar=True, batch_size=len(batch[0]))
        return loss

    def configure_optimizers(self) -> dict[str, Any]:
        """Adam with its schedule."""
        adam, steps = torch.optim.Adam(self.network.parameters(), self.rate, betas=(0.9, 0.99)), self.trainer.max_steps

        def factor(step: int) -> float:
            return min(1, (step + 1) / 100) * (1 + math.cos(math.pi * step / steps)) / 2

        return {"optimizer": adam, "lr_scheduler": {"scheduler": LambdaLR(adam, factor), "interval": "step"}}

    def on_train_start(self) -> None:
        self._begun = time.perf_counter()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds what the record of the weights needs, and what a resumed training run must have in common."""
        seconds = self._seconds + time.perf_counter() - self._begun
        told = {"clips": self._clips, "seconds": seconds, "device": self.device.type}
        checkpoint[KEY] = {"stage": self.WEIGHTS, "settings": self._settings(), **told}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Continues the counts of a training run of the same length and rate."""
        about, own = checkpoint[KEY], self._settings()
        if about["settings"] != own:
            raise InputError(
                f"--ckpt_path: began with {about['settings']}, not {own}; give the same, or delete it to train "
                "from scratch"
            )
        self._clips, self._seconds = about["clips"], about["seconds"]

    def _settings(self) -> dict[str, Any]:
        return {"trainer.max_steps": self.trainer.max_steps, "model.rate": self.rate}
