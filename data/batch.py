"""What a stream of batches is."""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

from torch.utils.data import get_worker_info
from webdataset import DataPipeline

from cmd_lightning.data.index import Shard


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
        """The reader that this worker is, and the number W of readers: it serves batches i of the epoch with i % W.

        Whichever worker process plays it after a resume.
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
