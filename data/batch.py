"""What a stream of batches is."""

from abc import abstractmethod
from collections.abc import Sequence

from torch.utils.data import IterableDataset

from cmd_lightning.data.index import Shard


class BatchStream(IterableDataset):
    """Batches of one rank, for a `StreamLoader` with any number of workers."""

    seed: int  # of every random choice
    shards: Sequence[Shard]  # that it reads, if any
    _sizes: list[int]  # of the batches of an epoch
    _epoch = _first = 0

    @abstractmethod
    def fingerprint(self, workers: int) -> str:
        """What a number of batches done holds for: with another fingerprint it means other samples."""

    def begin(self, epoch: int, first_batch: int = 0) -> None:
        """Set where the next pass begins: in this epoch, at this batch."""
        self._epoch, self._first = epoch, first_batch

    def count(self, batches: int) -> int:
        """Samples in the first batches of an epoch of this rank."""
        return sum(self._sizes[:batches])

    def __len__(self) -> int:
        """Batches in a whole epoch, the same on every rank, wherever the next pass begins."""
        return len(self._sizes)
