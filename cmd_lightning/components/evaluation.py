"""Evaluation: metrics of two sets of clips, on as many devices and nodes as the Trainer has."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from lightning import LightningModule

from cmd_lightning.errors import InputError
from cmd_lightning.metrics.statistics import load_statistics, save_statistics
from cmd_lightning.metrics.suite import MetricSuite


class Evaluation(LightningModule):
    """Feeds the batches of an `EvaluationData` to metrics.

    Afterwards `records` has the results, `rates` the known frame rates of all clips, and with several processes `error`
    the error of one of them.

    Args:
        suite: The metrics.
        reading: How clips are read, as plain data; saved statistics must agree with it.
        fps: Frames per second that all clips of known rate must have; None for any.
        load_from: Saved statistics to use instead of real clips.
        save_to: File to save the statistics of the real clips to.
        about: Plain data on the real clips to save with them.
    """

    def __init__(
        self,
        suite: MetricSuite,
        reading: Mapping[str, Any],
        fps: float | None = None,
        load_from: str | None = None,
        save_to: str | None = None,
        about: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.suite, self.reading, self.fps = suite, reading, fps
        self.load_from, self.save_to, self.about = load_from, save_to, about
        self.records: list[dict[str, Any]] = []
        self.rates: set[float] = set()
        self.error: str | None = None

    def on_test_start(self) -> None:
        """Loads statistics to the device of the metrics."""
        if self.load_from:
            self.attempt(load_statistics, self.load_from, self.suite.distances, self.reading)

    def test_step(self, batch: dict[str, Any], batch_idx: int, dataloader_idx: int = 0) -> None:
        """Evaluates the real clips of a batch, the generated ones, or both."""
        self.attempt(self.take, batch)

    def take(self, batch: dict[str, Any]) -> None:
        """Checks a batch, and feeds it to the metrics."""
        for side, clips in batch.items():
            self.check(side, clips)
        real, fake = (batch.get(side) for side in ("real", "fake"))
        if real:
            self.suite.update_real(real["video"])
        if fake:
            self.suite.update(fake["video"], captions=fake["caption"], real=real and real["video"])

    def check(self, side: str, clips: dict[str, Any]) -> None:
        """Rejects real or generated clips that cannot be evaluated."""
        if "error" in clips:
            raise InputError(clips["error"])
        self.rates |= {round(fps, 3) for fps in clips["fps"].tolist() if fps}
        for key, fps, caption in zip(clips["key"], clips["fps"].tolist(), clips["caption"], strict=True):
            if self.fps and fps and abs(fps - self.fps) > 0.02 * self.fps:
                raise InputError(
                    f"`{side}`: clip {key} has {fps:g} frames per second, others {self.fps:g}, which changes "
                    f"distances too; give `fps` {min(fps, self.fps):g}, or `stride` 1 to evaluate them as they are"
                )
            if side == "fake" and not caption and self.suite.asks("clipsim"):
                raise InputError(f"`fake`: clip {key} has no caption; give `prompts`, or a {key}.txt next to it")

    def on_test_epoch_end(self) -> None:
        """Combines the results of all processes, on every process."""
        found = [(self.error, self.rates)] * self.trainer.world_size
        if self.trainer.world_size > 1:
            torch.distributed.all_gather_object(found, found[0])
        self.error = next((error for error, _ in found if error), None)
        self.rates = set().union(*(rates for _, rates in found))
        self.attempt(self.finish)

    def finish(self) -> None:
        """Saves statistics, and computes the metrics."""
        if self.save_to:
            save_statistics(self.save_to, self.suite.distances, self.reading, self.about)
        if self.trainer.datamodule.fake is not None:  # type: ignore[attr-defined]  # Lightning sets it elsewhere
            self.records = self.suite.results()

    def attempt(self, step: Callable[..., None], *arguments: Any) -> None:
        """Runs a step, unless an earlier one failed; several processes keep an error until all reach the end."""
        if self.error is not None:
            return
        try:
            step(*arguments)
        except InputError as error:
            if self.trainer.world_size == 1:
                raise
            self.error = str(error)
