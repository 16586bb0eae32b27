"""The DataLoader over a stream, the position in it that a checkpoint keeps, and the DataModule that has both."""

import ctypes
import signal
import sys
import warnings
from abc import abstractmethod
from collections import Counter
from collections.abc import Iterator
from typing import Any, Literal

import torch
from lightning import LightningDataModule, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch.utils.data import DataLoader

from cmd_lightning import compat
from cmd_lightning.data.batch import BatchStream
from cmd_lightning.data.stream import Bad, describe, known_bad, list_bad
from cmd_lightning.errors import InputError

Split = Literal["train", "val", "test"]

_PR_SET_PDEATHSIG = 1
_ENOUGH = 10_000  # samples: that many tell the share of bad ones, though these are often together, in a bad shard


class Position:
    """Where a fit is in its training data: the epoch, and how many of its batches are done."""

    def __init__(self) -> None:
        self._stream: BatchStream | None = None
        self._fingerprint = ""
        self._epoch = self._fetched = self._passes = self._ahead = 0
        self._loaded: dict[str, Any] | None = None

    def begin(self, stream: BatchStream, workers: int, trainer: Trainer | None) -> tuple[int, int]:
        """The epoch and first batch of a pass that begins now.

        The epoch is the Trainer's, or counts the passes where there is none. After a resume it is the loaded
        one: a Trainer that max_steps stopped within an epoch counts it as ended and yet finishes it.
        """
        clock = trainer.current_epoch if trainer else self._passes
        epoch, first = clock + self._ahead, 0
        self._fingerprint = stream.fingerprint(workers)
        if self._loaded is not None:
            epoch, first = self._loaded["epoch"], self._loaded["batches"]
            if first and self._loaded["fingerprint"] != self._fingerprint:
                rank_zero_warn(
                    f"The checkpoint is {first} batches into epoch {epoch} of other data: shards, seed, batch_size, "
                    "shuffle_buffer, num_workers or devices have changed. The epoch starts again."
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
        """Begin the next pass where the state says."""
        self._loaded = dict(state) or None


class StreamLoader(DataLoader):
    """Loads a stream with its workers, adds up the bad samples, and reports them at the end of a pass.

    The share of bad samples to accept is that of a pass, or of as much of it as is seen once that is 10,000 samples.
    Those that are known count as if they lay evenly among the others. Training begins at the position and updates it;
    without one every pass is the whole of epoch 0.
    """

    def __init__(
        self,
        dataset: BatchStream,
        *,
        max_bad_share: float = 1.0,
        position: Position | None = None,
        trainer: Trainer | None = None,
        num_workers: int = 0,
        **options: Any,
    ) -> None:
        # Lightning creates the loader of `predict` a second time, with all options of DataLoader.
        options |= {"batch_size": None, "pin_memory": torch.cuda.is_available()}
        # A generator of its own: starting an epoch must not move the global one, where models draw noise.
        options["generator"] = torch.Generator().manual_seed(dataset.seed)
        options |= {"num_workers": num_workers, "worker_init_fn": leave_signals}
        super().__init__(dataset, **options)
        self.stream, self.position, self.trainer = dataset, position, trainer
        self.max_bad_share = max_bad_share
        self.good, self.known = sum(shard.good for shard in dataset.shards), known_bad(dataset.shards)
        for message in (compat.NO_LENGTH, compat.MID_EPOCH):
            # Lightning's advice where a stream is not cut by worker or cannot resume; this one is and can.
            warnings.filterwarnings("ignore", message=message)

    def __iter__(self) -> Iterator[dict[str, Any]]:  # type: ignore[override]  # torch names its private iterator
        """Yield batches, from the position on. As a generator it begins at the first batch, when all is restored."""
        epoch, first = 0, 0
        if self.position:
            epoch, first = self.position.begin(self.stream, self.num_workers, self.trainer)
        # `overfit_batches` asks for the same clips in every epoch; their noise is still that of the epoch.
        overfit = bool(self.position and getattr(self.trainer, "overfit_batches", 0))
        self.stream.begin(0 if overfit else epoch, first)
        last = len(self)
        if self.position and self.trainer:
            last = int(min(last, self.trainer.num_training_batches))  # `limit_train_batches`
        samples = self.stream.count(last)
        bad: list[Bad] = []
        seen = 0
        self._judge(bad, samples)
        for done, batch in enumerate(super().__iter__(), first + 1):
            if "error" in batch:  # raised in a worker it would come with the worker's traceback
                raise InputError(batch["error"])
            bad += batch.pop("bad")
            seen += len(batch["key"])
            if self.position:
                self.position.advance()
            self._judge(bad, max(seen, min(samples, _ENOUGH)))
            if done == last:
                self._report(bad, seen)
            yield batch | {"epoch": epoch}

    def _judge(self, bad: list[Bad], samples: int) -> None:
        known = len(self.known) * samples / self.good if self.known else 0
        if len(bad) + known > self.max_bad_share * (samples + known):
            listed = list_bad(bad + self.known, most=3)
            raise InputError(
                f"data.max_bad_share {self.max_bad_share:g}: too many samples are bad, {len(bad)} of {samples}"
                f"{f' and {len(self.known)} known before' if self.known else ''}: {listed}; fix or remove them, or "
                "raise the share"
            )

    def _report(self, bad: list[Bad], seen: int) -> None:
        if bad:
            warnings.warn(f"{len(bad)} of {seen} samples were bad and replaced: {list_bad(bad, most=5)}", stacklevel=3)
        if self.known:
            known = describe(Counter(sample.reason for sample in self.known))
            rank_zero_warn(f"{len(self.known)} samples known to be bad were left out: {known}")


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
        """Batches for testing, the same each time."""
        return self._loader("test")

    def predict_dataloader(self) -> StreamLoader:
        """The same as the test batches."""
        return self._loader("test")

    def state_dict(self) -> dict[str, Any]:
        """The position in the training data, as plain numbers and names."""
        return self._position.state_dict(self.trainer)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up a position: the next pass over the training data begins there."""
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
