"""Streams of batches: their loader, the position in them that a checkpoint keeps, and the DataModule that has both."""

import ctypes
import signal
import sys
import warnings
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import torch
from lightning import LightningDataModule, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch.utils.data import get_worker_info
from webdataset import DataPipeline, WebLoader

from cmd_lightning import compat
from cmd_lightning.data.bad_samples import BadShare
from cmd_lightning.data.index import Shard
from cmd_lightning.errors import InputError

Split = Literal["train", "val", "test"]

_PR_SET_PDEATHSIG = 1


class BatchStream(DataPipeline):
    """A webdataset pipeline that ends in the batches of one rank, for a `StreamLoader` with any number of workers.

    Args:
        sizes: Numbers of samples in the batches of an epoch.
        stages: Of the pipeline, the first one a source.
    """

    seed: int  # of every random choice
    shards: Sequence[Shard] = ()  # that it reads, if any
    _epoch = _first = 0

    def __init__(self, sizes: list[int], *stages: Callable[..., Any]) -> None:
        super().__init__(*stages)
        self._sizes = sizes

    @abstractmethod
    def fingerprint(self, workers: int) -> str:
        """What a number of batches done holds for: with another fingerprint it means other samples."""

    def begin(self, epoch: int, first_batch: int = 0) -> None:
        """Set where the next pass begins: in this epoch, at this batch."""
        self._epoch, self._first = epoch, first_batch

    def reader(self) -> tuple[int, int]:
        """The number r of the reader that this worker is, and the number W of readers; it serves batches r, r + W, ...

        After a resume another worker process may be this reader.
        """
        info = get_worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        return (self._first + worker) % workers, workers

    def count(self, batches: int) -> int:
        """Samples in the first batches of an epoch of this rank."""
        return sum(self._sizes[:batches])

    def __len__(self) -> int:
        """Batches in a whole epoch, the same on every rank, wherever the next pass begins."""
        return len(self._sizes)


class Position:
    """Where training is in its data: the epoch, and how many of its batches are done."""

    def __init__(self) -> None:
        self._stream: BatchStream | None = None
        self._fingerprint = ""
        self._epoch = self._fetched = self._passes = self._ahead = 0
        self._loaded: dict[str, Any] | None = None

    def begin(self, stream: BatchStream, workers: int, trainer: Trainer | None) -> tuple[int, int]:
        """The epoch and first batch of a pass that begins now.

        The epoch is the Trainer's, or without one counts the passes. After a resume it is the loaded one: a Trainer
        that max_steps stopped within an epoch counts it as ended and yet finishes it.
        """
        clock = trainer.current_epoch if trainer else self._passes
        epoch, first = clock + self._ahead, 0
        self._fingerprint = stream.fingerprint(workers)
        if self._loaded is not None:
            epoch, first = self._loaded["epoch"], self._loaded["batches"]
            if first and self._loaded["fingerprint"] != self._fingerprint:
                rank_zero_warn(
                    f"The checkpoint is {first} batches into epoch {epoch} of other data: shards, weights, select, "
                    "stages, seed, batch_size, shuffle_buffer, num_workers or devices have changed. The epoch starts "
                    "again."
                )
                first = 0
            elif first and trainer and not trainer.fit_loop.epoch_loop.batch_progress.current.ready:
                epoch, first = epoch + 1, 0  # the Trainer gave up the rest of that epoch: so do we
            self._ahead = epoch - clock
            self._loaded = None
        self._stream, self._epoch, self._fetched = stream, epoch, first
        self._passes += 1
        return epoch, first

    def advance(self) -> None:
        """Count a batch that the Trainer has asked for (not one that a worker has prefetched)."""
        self._fetched += 1

    def state_dict(self, trainer: Trainer | None) -> dict[str, Any]:
        """The position as plain data; empty before the first batch."""
        if self._loaded is not None:
            return dict(self._loaded)
        if self._stream is None:
            return {}
        epoch, batches, end = self._epoch, self._fetched, float(len(self._stream))
        if trainer:
            progress = trainer.fit_loop.epoch_loop.batch_progress.current
            # One is in the making, and will be made again.
            batches -= progress.ready - progress.processed  # type: ignore[attr-defined]  # Lightning types a base class
            end = min(end, trainer.num_training_batches)
        if batches >= end:
            epoch, batches = epoch + 1, 0
        done = {"epoch": epoch, "batches": batches, "fingerprint": self._fingerprint}
        return {"seed": self._stream.seed} | done

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._loaded = dict(state) or None


class StreamLoader(WebLoader):
    """Webdataset's loader over a stream, which keeps the position and counts bad samples, see `BadShare`.

    Training begins at the position and updates it; without one every pass is the whole of epoch 0.
    """

    def __init__(
        self,
        stream: BatchStream,
        *,
        max_bad_share: float = 1.0,
        position: Position | None = None,
        trainer: Trainer | None = None,
        num_workers: int = 0,
    ) -> None:
        super().__init__(
            stream,
            batch_size=None,
            pin_memory=torch.cuda.is_available(),
            # Not the global generator: models sample their noise from it, so that starting an epoch must not use it.
            generator=torch.Generator().manual_seed(stream.seed),
            num_workers=num_workers,
            worker_init_fn=leave_signals,
        )
        self.stream, self.num_workers, self.max_bad_share = stream, num_workers, max_bad_share
        self.position, self.trainer = position, trainer
        self.loader, self.pipeline[0] = self.pipeline[0], self.batches
        # Lightning's advice where a loader cannot resume; this one can.
        warnings.filterwarnings("ignore", message=compat.MID_EPOCH)

    def __len__(self) -> int:
        return len(self.stream)

    def batches(self) -> Iterator[dict[str, Any]]:
        """Yield the batches of a pass. As a generator it asks for the position at the first one, when all is restored.

        The first stage of this pipeline.
        """
        epoch, first = 0, 0
        if self.position:
            epoch, first = self.position.begin(self.stream, self.num_workers, self.trainer)
            if self.trainer and not first:
                compat.begin_resumed_epoch(self.trainer)
        # `overfit_batches` asks for the same clips in every epoch; their noise is still that of the epoch.
        overfit = bool(self.position and getattr(self.trainer, "overfit_batches", 0))
        self.stream.begin(0 if overfit else epoch, first)
        last = len(self)
        if self.position and self.trainer:
            last = int(min(last, self.trainer.num_training_batches))  # `limit_train_batches`
        share = BadShare(self.max_bad_share, self.stream.shards, self.stream.count(last))
        for done, batch in enumerate(self.loader, first + 1):
            if "error" in batch:  # raised in a worker it would come with the worker's traceback
                raise InputError(batch["error"])
            if self.position:
                self.position.advance()
            share.add(len(batch["key"]), batch.pop("bad"))
            if done == last:
                share.report()
            yield batch | {"epoch": epoch}


class StreamDataModule(LightningDataModule):
    """A DataModule of streams, with the position in the training data as part of a checkpoint."""

    num_workers: int  # per device
    max_bad_share = 1.0

    def __init__(self) -> None:
        super().__init__()
        self._position = Position()

    @abstractmethod
    def has(self, split: Split) -> bool:
        """Whether there are clips of a split."""

    @abstractmethod
    def stream(self, split: Split) -> BatchStream:
        """The batches of a split: for training in random order, else the same each time."""

    def setup(self, stage: str) -> None:
        """Count epochs from 0 again in a new fit."""
        if stage == "fit":
            self._position = Position()

    def train_dataloader(self) -> StreamLoader:
        """Batches for training, from the position of a loaded state on."""
        return self._loader("train", self._position)

    def val_dataloader(self) -> StreamLoader | list:
        """Batches for validation, the same each time; none where there are no such clips."""
        return self._loader("val") if self.has("val") else []

    def test_dataloader(self) -> StreamLoader:
        """Batches for testing and prediction, the same each time."""
        return self._loader("test")

    predict_dataloader = test_dataloader

    def state_dict(self) -> dict[str, Any]:
        return self._position.state_dict(self.trainer)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._position.load_state_dict(state_dict)

    def _loader(self, split: Split, position: Position | None = None) -> StreamLoader:
        return StreamLoader(
            self.stream(split),
            max_bad_share=self.max_bad_share,
            position=position,
            trainer=self.trainer if position else None,
            num_workers=self.num_workers,
        )


def leave_signals(_: int) -> None:
    """Leaves to the main process what is sent to the whole group of processes: by Ctrl-C, or a batch system.

    The main process may end a worker by SIGTERM too, but tries twice, so the first one is let pass. When it is gone
    itself the worker goes too, at once where the system can do that (Linux): it may hold a shard that others wait for.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    for name in ("SIGINT", "SIGUSR1", "SIGUSR2"):
        if hasattr(signal, name):  # Windows has only the first
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, _: signal.signal(number, signal.SIG_DFL))
