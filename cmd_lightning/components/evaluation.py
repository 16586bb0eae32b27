"""Evaluation: metrics over two sets of clips, on as many devices and nodes as the Trainer has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning import LightningModule

from cmd_lightning.errors import InputError
from cmd_lightning.metrics.statistics import load_statistics, save_statistics
from cmd_lightning.metrics.suite import MetricSuite


class Evaluation(LightningModule):
    """Feeds the batches of an `EvaluationData` to metrics; the numbers are in `records` afterwards.

    Args:
        suite: The metrics.
        protocol: How clips are read, plain data that saved statistics must agree with.
        load_from: Saved statistics to take in place of real clips.
        save_to: Where to save those of the real clips.
        about: Plain data on the real clips to save with them.
    """

    def __init__(
        self,
        suite: MetricSuite,
        protocol: Mapping[str, Any],
        load_from: str | None = None,
        save_to: str | None = None,
        about: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.suite, self.protocol = suite, protocol
        self.load_from, self.save_to, self.about = load_from, save_to, about
        self.records: list[dict[str, Any]] = []

    def on_test_start(self) -> None:
        """Loads statistics where the metrics are now."""
        if self.load_from:
            self.about = load_statistics(self.load_from, self.suite.distances(), self.protocol)

    def test_step(self, batch: dict[str, Any], batch_idx: int, dataloader_idx: int = 0) -> None:
        """Takes in the real clips of a batch, the generated ones, or both.

        Raises:
            InputError: A clip could not be read, or has no caption where one is needed.
        """
        real, fake = (batch.get(side) for side in ("real", "fake"))
        for side in filter(None, (real, fake)):
            if "error" in side:
                raise InputError(side["error"])
        if real:
            self.suite.update_real(real["video"])
        if fake:
            if self.suite.asks("clipsim") and "" in fake["caption"]:
                key = fake["key"][fake["caption"].index("")]
                raise InputError(f"--fake: clip {key} has no caption; give --prompts FILE, or a {key}.txt beside it")
            self.suite.update(fake["video"], captions=fake["caption"], real=real and real["video"])

    def on_test_epoch_end(self) -> None:
        """Puts the sums of all processes together, on every process."""
        if self.save_to:
            save_statistics(self.save_to, self.suite.distances(), self.protocol, self.about)
        if self.trainer.datamodule.fake is not None:
            self.records = self.suite.results()
