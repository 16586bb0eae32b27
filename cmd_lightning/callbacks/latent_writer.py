"""Hands what `Encoding` makes to a store of latent shards, and puts the counts of all processes together."""

from __future__ import annotations

import signal
from collections import Counter
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

if TYPE_CHECKING:
    from cmd_lightning.data.latent_store import LatentStore


class LatentWriter(Callback):
    """Writes shards to a store as they come; those that an error or Ctrl-C leaves incomplete vanish.

    Afterwards `summary` holds what was done, all processes together.
    """

    def __init__(self, store: LatentStore) -> None:
        self.store = store
        self.summary: dict[str, Any] = {}

    def on_predict_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *_: Any, **__: Any
    ) -> None:
        """Writes what was made of a chunk; ends the process after a SIGTERM, which Lightning only notes."""
        self.store.take(batch, outputs)
        if trainer.received_sigterm:
            raise SystemExit(128 + signal.SIGTERM)

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Waits for all processes, and adds up what they did."""
        told = [self.store.summary] * trainer.world_size
        if trainer.world_size > 1:
            torch.distributed.all_gather_object(told, self.store.summary)
        self.summary = {
            "samples": sum(one["samples"] for one in told),
            "shards": sum(one["shards"] for one in told),
            "bad": dict(sum((Counter(one["bad"]) for one in told), Counter())),
            "failed": {name: why for one in told for name, why in one["failed"].items()},
        }

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Removes what is not complete."""
        self.store.abandon()
