"""ShardDataModule: what DataModules over shards share."""

from abc import abstractmethod
from typing import Any

from cmd_lightning.data.cache import ShardCache
from cmd_lightning.data.captions import some_captions
from cmd_lightning.data.classes import read_classes
from cmd_lightning.data.clips import SampleLoader
from cmd_lightning.data.index import Shard, expand, load_index
from cmd_lightning.data.loader import Split, StreamDataModule
from cmd_lightning.data.stream import ShardStream, known_bad, list_bad
from cmd_lightning.errors import InputError, check_at_least, check_positive

_USED = {  # by the Trainer's verb
    "fit": ("train_shards", "val_shards"),
    "validate": ("val_shards",),
    "test": ("test_shards",),
    "predict": ("test_shards",),
}


class ShardDataModule(StreamDataModule):
    """Batches from shards; a subclass says what becomes of a sample.

    Every good sample comes exactly once per epoch, for any number of ranks and workers, and every rank gets the same
    number of batches. Interrupted training resumes at the next batch.

    Args:
        train_shards: .tar files for training: paths, globs, folders, brace ranges or URLs (https, s3, gs, az, hf).
        val_shards: The same for validation.
        test_shards: The same for testing and prediction.
        batch_size: Clips in a batch, per device.
        num_workers: Loader processes, per device.
        seed: Seed of every random choice of the data.
        shuffle_buffer: Samples, per worker, not read yet, among which the next one is drawn in training.
        max_bad_share: The largest share of bad samples to accept, from 0 to 1. They are replaced and counted; more of
            them, or of those that the index lists, end the run with a list.
        remote: How shards at addresses are fetched and kept.

    Raises:
        InputError: A number is out of range.
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
        check_positive(batch_size=batch_size)
        check_at_least(0, num_workers=num_workers, shuffle_buffer=shuffle_buffer)
        if not 0 <= max_bad_share <= 1:
            raise InputError(f"max_bad_share {max_bad_share}: give a share from 0 to 1, e.g. 0.1")
        self.shards = {"train_shards": train_shards, "val_shards": val_shards, "test_shards": test_shards}
        self.batch_size, self.num_workers = batch_size, num_workers
        self.seed, self.shuffle_buffer = seed, shuffle_buffer
        self.max_bad_share, self.remote = max_bad_share, remote or ShardCache()
        self._found: dict[str, list[Shard]] = {}

    @abstractmethod
    def clip_loader(self, *, training: bool) -> SampleLoader:
        """What makes a clip of a sample, in training or in evaluation."""

    def num_classes(self) -> int:
        """Number of classes of the shards that the Trainer's verb reads, by their indexes; 0 if these know none.

        Raises:
            InputError: Folders give the same label to different classes.
        """
        return read_classes([shard.url for option in self._used() for shard in self._find(option)], self.remote).number

    def captions(self) -> list[str]:
        """Captions of up to 1000 training samples; see `some_captions`."""
        return some_captions(self._find("train_shards"), self.remote)

    def prepare_data(self) -> None:
        """Scan shards that have no index yet, once for all ranks: those that the Trainer's verb reads, else all."""
        for option in self._used():
            self._find(option)

    def describe(self) -> dict[str, Any]:
        """What the test clips are, as plain data for the record of a result."""
        return {"data": type(self).__name__, "shards": self.shards["test_shards"]}

    def has(self, split: Split) -> bool:
        """Whether shards of the split are given."""
        return bool(self.shards[f"{split}_shards"])

    def stream(self, split: Split) -> ShardStream:
        """Batches of the shards of a split: shuffled in training, else in fixed order."""
        training = split == "train"
        return ShardStream(
            self._find(f"{split}_shards"),
            self.clip_loader(training=training),
            batch_size=self.batch_size,
            rank=self.trainer.global_rank if self.trainer else 0,
            ranks=self.trainer.world_size if self.trainer else 1,
            seed=self.seed,
            shuffle_buffer=self.shuffle_buffer if training else 0,
            shuffle=training,
            remote=self.remote,
        )

    def _used(self) -> list[str]:
        """The options of the shards that are given and that the Trainer's verb reads."""
        verb = self.trainer.state.fn if self.trainer else None
        return [option for option in (_USED[verb.value] if verb else self.shards) if self.shards[option]]

    def _find(self, option: str) -> list[Shard]:
        if option not in self._found:
            shards = self.shards[option]
            if not shards:
                raise InputError(f"{option}: none given; name .tar files, e.g. 'clips/{{000000..000009}}.tar'")
            urls = expand(shards, option, self.remote)
            found = load_index(urls, write=True, remote=self.remote)
            if not sum(shard.good for shard in found):
                why = list_bad(known_bad(found), most=3) if known_bad(found) else "no sample with a clip in it"
                raise InputError(f"{option} {shards}: no usable clip: {why}; see them with `shards check`")
            self._found[option] = found
        return self._found[option]
