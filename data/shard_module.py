"""ShardDataModule: what DataModules over shards share, with the position in them as part of a checkpoint."""

import warnings
from abc import abstractmethod
from typing import Any

from lightning import LightningDataModule
from torch.utils.data import DataLoader

from cmd_lightning.data.cache import ShardCache
from cmd_lightning.data.clips import SampleLoader
from cmd_lightning.data.index import Shard, expand, load_index
from cmd_lightning.data.loader import Position, StreamLoader
from cmd_lightning.data.stream import ShardStream, known_bad, list_bad
from cmd_lightning.errors import InputError

_USED = {  # by the Trainer's verb
    "fit": ("train_shards", "val_shards"),
    "validate": ("val_shards",),
    "test": ("test_shards",),
    "predict": ("test_shards",),
}


class ShardDataModule(LightningDataModule):
    """Batches from shards; a subclass says what becomes of a sample.

    Every good sample comes exactly once an epoch, and every rank gets the same number of batches. A fit resumed
    from a checkpoint goes on at the next batch.

    Args:
        train_shards: .tar files for training: paths, globs, folders, brace ranges or http(s) addresses.
        val_shards: the same for validation.
        test_shards: the same for testing and prediction.
        batch_size: clips in a batch, per device.
        num_workers: loader processes, per device.
        seed: of every random choice of the data.
        shuffle_buffer: samples, per worker, not read yet, among which the next one is drawn in training.
        max_bad_share: the largest share of bad samples to go on with, from 0 to 1. They are replaced and counted; more
            of them, or of those that the index knows, end the run with a list.
        remote: how shards at addresses are fetched and kept.

    Raises:
        InputError: a number is out of range.
    """

    def __init__(
        self,
        train_shards: str | list[str] | None = None,
        val_shards: str | list[str] | None = None,
        test_shards: str | list[str] | None = None,
        batch_size: int = 8,
        num_workers: int = 0,
        seed: int = 0,
        shuffle_buffer: int = 100,
        max_bad_share: float = 0.1,
        remote: ShardCache | None = None,
    ) -> None:
        super().__init__()
        for name, value, least in (
            ("batch_size", batch_size, 1),
            ("num_workers", num_workers, 0),
            ("shuffle_buffer", shuffle_buffer, 0),
        ):
            if value < least:
                raise InputError(f"{name} {value}: must be at least {least}")
        if not 0 <= max_bad_share <= 1:
            raise InputError(f"max_bad_share {max_bad_share}: give a share from 0 to 1, e.g. 0.1")
        self.shards = {"train_shards": train_shards, "val_shards": val_shards, "test_shards": test_shards}
        self.batch_size, self.num_workers = batch_size, num_workers
        self.seed, self.shuffle_buffer = seed, shuffle_buffer
        self.max_bad_share, self.remote = max_bad_share, remote or ShardCache()
        self._found: dict[str, list[Shard]] = {}
        self._position = Position()

    @abstractmethod
    def clip_loader(self, *, training: bool) -> SampleLoader:
        """What makes a clip of a sample, in training or in evaluation."""

    def prepare_data(self) -> None:
        """Scan shards that have no index yet, once for all ranks: those that the Trainer's verb reads, else all."""
        verb = self.trainer.state.fn if self.trainer else None
        for option in _USED[verb.value] if verb else self.shards:
            if self.shards[option]:
                self._find(option)

    def setup(self, stage: str) -> None:
        """Count epochs anew, as a new fit does."""
        if stage == "fit":
            self._position = Position()

    def train_dataloader(self) -> DataLoader:
        """Shuffled batches of `train_shards`, going on where a loaded state says."""
        return self._loader("train_shards", training=True, position=self._position, trainer=self.trainer)

    def val_dataloader(self) -> DataLoader | list:
        """Batches of `val_shards` in fixed order; none where no such shards are given."""
        return self._loader("val_shards") if self.shards["val_shards"] else []

    def test_dataloader(self) -> DataLoader:
        """Batches of `test_shards` in fixed order."""
        return self._loader("test_shards")

    def predict_dataloader(self) -> DataLoader:
        """The same as the test batches."""
        return self._loader("test_shards")

    def state_dict(self) -> dict[str, Any]:
        """The position in the training data, as plain numbers and names."""
        return self._position.state_dict(self.trainer)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up a position: the next pass over the training data begins there."""
        self._position.load_state_dict(state_dict)

    def describe(self) -> dict[str, Any]:
        """What the test clips are, as plain data for the record of a result."""
        return {"data": type(self).__name__, "shards": self.shards["test_shards"]}

    def _loader(self, option: str, *, training: bool = False, **options: Any) -> DataLoader:
        return StreamLoader(
            self._stream(option, training=training),
            shards=self._find(option),
            max_bad_share=self.max_bad_share,
            num_workers=self.num_workers,
            **options,
        )

    def _stream(self, option: str, *, training: bool) -> ShardStream:
        return ShardStream(
            self._find(option),
            self.clip_loader(training=training),
            batch_size=self.batch_size,
            rank=self.trainer.global_rank if self.trainer else 0,
            ranks=self.trainer.world_size if self.trainer else 1,
            seed=self.seed,
            shuffle_buffer=self.shuffle_buffer if training else 0,
            shuffle=training,
            remote=self.remote,
        )

    def _find(self, option: str) -> list[Shard]:
        if option not in self._found:
            shards = self.shards[option]
            if not shards:
                raise InputError(f"{option}: none given; name .tar files, e.g. 'clips/{{000000..000009}}.tar'")
            urls = expand(shards, option, allow_commands=self.remote.allow_commands)
            found = load_index(urls, write=True, remote=self.remote)
            if not sum(shard.good for shard in found):
                raise InputError(f"{option} {shards}: no usable clip: {list_bad(known_bad(found))}")
            if unknown := sum(not shard.exact for shard in found):
                warnings.warn(
                    f"{option}: {unknown} remote shards have no index.json beside them, so their order and number "
                    "are approximate: 1000 samples each are assumed. Run `shards check` where they are made.",
                    stacklevel=2,
                )
            self._found[option] = found
        return self._found[option]
