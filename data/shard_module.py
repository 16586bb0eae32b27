"""ShardDataModule: what DataModules over shards share."""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from itertools import accumulate, islice
from typing import Any

from lightning.pytorch.utilities.rank_zero import rank_zero_info

from cmd_lightning.data.bad_samples import known_bad, list_bad
from cmd_lightning.data.cache import ShardCache
from cmd_lightning.data.classes import read_classes
from cmd_lightning.data.clips import SampleLoader
from cmd_lightning.data.index import Shard, expand, is_remote, load_index
from cmd_lightning.data.loader import Split, StreamDataModule
from cmd_lightning.data.plan import Part, portions
from cmd_lightning.data.selecting import Selection, facts_of
from cmd_lightning.data.stages import importable, name_of
from cmd_lightning.data.stream import ShardStream
from cmd_lightning.errors import InputError, check_at_least, check_positive

MOST_CAPTIONS = 1000  # looked at before training: the share of a kind of them is then known to 3 %
_CAPTION_SHARDS = 32  # that are opened for them
_MOST = 10**6  # weight of a data set; shards of one in an epoch, repeated ones included, as the plan lists them all

_USED = {  # by the Trainer's verb
    "fit": ("train_shards", "val_shards"),
    "validate": ("val_shards",),
    "test": ("test_shards",),
    "predict": ("test_shards",),
}


class ShardDataModule(StreamDataModule):
    """Batches from shards; a subclass defines how a sample is loaded.

    Every good sample comes exactly once per epoch, for any number of ranks and workers, and every rank gets the same
    number of batches. Interrupted training resumes at the next batch.

    Args:
        train_shards: .tar files for training: paths, globs, folders, brace ranges or URLs (https, s3, gs, az, hf). Or
            data sets with weights, as {a/: 0.7, b/: 0.3}: an epoch takes each sample of the one that is largest for its
            weight once, and repeats the others in proportion.
        val_shards: The same for validation, without weights.
        test_shards: The same for testing and prediction.
        batch_size: Clips in a batch, per device.
        num_workers: Loader processes, per device.
        seed: Seed of every random choice of the data.
        shuffle_buffer: Samples, per worker, not read yet, from which the next one is chosen at random in training.
        max_bad_share: The largest share of bad samples to accept, from 0 to 1. They are replaced and counted; more of
            them, or of those that the index lists, end the run with a list.
        select: Conditions on the metadata of samples, as {width: {min: 512}, caption: {matches: "dog"}}, with min, max,
            equals, in, matches; or the name of a function of the json and the caption that returns true or false.
        stages: Names of webdataset stages that training samples pass before they are decoded: functions from an
            iterator over samples, dictionaries of bytes by suffix, to another of as many.
        remote: How shards at addresses are fetched and kept.

    Raises:
        InputError: A value is out of range, or a function cannot be imported.
    """

    stills = False  # whether still images are read as clips, in training and validation

    def __init__(
        self,
        train_shards: str | list[str] | dict[str, float] | None = None,
        val_shards: str | list[str] | None = None,
        test_shards: str | list[str] | None = None,
        batch_size: int = 8,
        num_workers: int = 0,
        seed: int = 0,
        shuffle_buffer: int = 100,
        max_bad_share: float = 0.1,
        select: dict[str, dict[str, Any]] | str | Callable | None = None,
        stages: list[str | Callable] | None = None,
        remote: ShardCache | None = None,
    ) -> None:
        super().__init__()
        check_positive(batch_size=batch_size)
        check_at_least(0, num_workers=num_workers, shuffle_buffer=shuffle_buffer)
        if not 0 <= max_bad_share <= 1:
            raise InputError(f"max_bad_share {max_bad_share}: give a share from 0 to 1, e.g. 0.1")
        self.shards: dict[str, Any] = {"train_shards": train_shards, "val_shards": val_shards}
        self.shards["test_shards"] = test_shards
        for option, given in self.shards.items():
            _check_shards(option, given)
        self.batch_size, self.num_workers = batch_size, num_workers
        self.seed, self.shuffle_buffer = seed, shuffle_buffer
        self.max_bad_share, self.remote = max_bad_share, remote or ShardCache()
        self.select = select if isinstance(select, dict) or select is None else importable(select, "data.select")
        if not isinstance(stages, list | tuple | None):
            raise InputError(f"data.stages {stages}: give a list, [my_package.my_stage]")
        self.stages = [importable(stage, "data.stages") for stage in stages or ()]
        self._found: dict[str, list[list[Shard]]] = {}

    @abstractmethod
    def clip_loader(self, *, training: bool) -> SampleLoader:
        """The function that loads a clip from a sample, in training or in evaluation."""

    def num_classes(self) -> int:
        """Number of classes of the shards that the Trainer's verb reads, by their indexes; 0 if these know none.

        Raises:
            InputError: Folders give the same label to different classes.
        """
        urls = [shard.url for option in self._used() for found in self._find(option) for shard in found]
        return read_classes(urls, self.remote).number

    def captions(self) -> list[str]:
        """Captions of up to 1000 good training samples: the first ones of up to 32 shards, spread evenly.

        Of remote shards only those of the first one are read, which training fetches first in any case.
        """
        shards = [shard for found in self._find("train_shards") for shard in found]
        spread = shards[:: -(-len(shards) // _CAPTION_SHARDS)]
        chosen = [shard for shard in shards if is_remote(shard.url)][:1] or spread
        captions: list[str] = []
        for shard in chosen:
            with shard.open(self.remote) as file:
                samples = islice(shard.usable(file), -(-MOST_CAPTIONS // len(chosen)))
                captions += [facts["caption"] for facts in map(facts_of, samples) if facts is not None]
        return captions

    def prepare_data(self) -> None:
        """Scan shards that have no index yet, once for all ranks: those that the Trainer's verb reads, else all."""
        for option in self._used():
            self._find(option)

    def describe(self) -> dict[str, Any]:
        """What the test clips are, as plain data for the record of a result."""
        select = self.select if self.select is None or isinstance(self.select, dict) else name_of(self.select)
        about = {"data": type(self).__name__, "shards": self.shards["test_shards"]}
        return about if select is None else about | {"select": select}

    def has(self, split: Split) -> bool:
        return bool(self.shards[f"{split}_shards"])

    def stream(self, split: Split) -> ShardStream:
        """Batches of the shards of a split: shuffled and through the user's stages in training, else in fixed order."""
        training, found = split == "train", self._find(f"{split}_shards")
        return ShardStream(
            [shard for shards in found for shard in shards],
            self.clip_loader(training=training),
            batch_size=self.batch_size,
            rank=self.trainer.global_rank if self.trainer else 0,
            ranks=self.trainer.world_size if self.trainer else 1,
            seed=self.seed,
            shuffle_buffer=self.shuffle_buffer if training else 0,
            shuffle=training,
            parts=self._parts(found),
            stages=self.stages if training else (),
            remote=self.remote,
        )

    def _parts(self, found: Sequence[Sequence[Shard]]) -> list[Part]:
        """The data sets of an epoch; none where there is only one."""
        if len(found) == 1:
            return []
        ends = list(accumulate(map(len, found), initial=0))
        sizes = [sum(shard.good for shard in shards) for shards in found]
        weights = {name: weight for name, weight in self.shards["train_shards"].items() if weight}
        takes = portions(sizes, list(weights.values()))
        for name, shards, size, take in zip(weights, found, sizes, takes, strict=True):
            if take * len(shards) > _MOST * size:
                remedy = f"lower its weight {weights[name]:g}, or raise the others"
                raise InputError(f"train_shards {name}: an epoch would repeat it {take // size} times; {remedy}")
        return [Part(range(*ends[number : number + 2]), take) for number, take in enumerate(takes)]

    def _used(self) -> list[str]:
        """The options of the shards that are given and that the Trainer's verb reads."""
        verb = self.trainer.state.fn if self.trainer else None
        return [option for option in (_USED[verb.value] if verb else self.shards) if self.shards[option]]

    def _find(self, option: str) -> list[list[Shard]]:
        """The shards of an option, of each data set; indexed at the first call."""
        if option not in self._found:
            given = self.shards[option]
            if not given:
                raise InputError(f"{option}: none given; name .tar files, e.g. 'clips/{{000000..000009}}.tar'")
            sets = [one for one, weight in given.items() if weight] if isinstance(given, dict) else [given]
            self._found[option] = [self._index(option, one) for one in sets]
        return self._found[option]

    def _index(self, option: str, shards: str | list[str]) -> list[Shard]:
        selection = Selection(self.select, images=self.stills and option != "test_shards")
        chosen = None if selection == Selection() else selection
        urls = expand(shards, option, self.remote)
        found = load_index(urls, write=True, remote=self.remote, selection=chosen)
        good, there = sum(shard.good for shard in found), sum(shard.samples for shard in found)
        if self.select is not None:
            if not good:
                files = (shard.open(self.remote) for shard in found)
                raise InputError(f"data.select: nothing is left of {option} {shards}: {selection.why_none(files)}")
            rank_zero_info(f"{option} {shards}: data.select takes {good} of {there} samples")
        for shard in found:
            if not selection.images and shard.holds_images_alone(self.remote):
                remedy = "to train and validate an autoencoder or content model on images, set data.images still"
                raise InputError(f"{option} {shard.url}: holds still images, and video is needed; {remedy}")
        if not good:
            why = list_bad(known_bad(found), most=3) if known_bad(found) else "no sample with a clip in it"
            raise InputError(f"{option} {shards}: no usable clip: {why}; see them with `shards check`")
        return found


def _check_shards(option: str, given: Any) -> None:
    """Rejects what is no shards, and weights that make no epoch."""
    if isinstance(given, list | tuple) and not all(isinstance(one, str) for one in given):
        remedy = "write several with weights as a mapping, train_shards: {webvid/train: 0.7, openvid/train: 0.3}"
        raise InputError(f"{option} {given}: a list holds paths of one data set; {remedy}")
    if not isinstance(given, str | list | tuple | dict | None):
        raise InputError(f"{option} {given!r}: give a path as str, or a list of them")
    if not isinstance(given, dict):
        return
    if option != "train_shards":
        raise InputError(f"{option} {given}: only train_shards has weights; give a path or a list of paths")
    for shards, weight in given.items():
        if not (isinstance(weight, int | float) and (weight == 0 or 1 / _MOST <= weight <= _MOST)):
            allowed = f"0 or a number from {1 / _MOST:g} to {_MOST:g}, e.g. 0.5"
            raise InputError(f"train_shards {shards}: the weight {weight} must be {allowed}")
    if not any(given.values()):
        raise InputError(f"train_shards {given}: the weights sum to zero; give one data set more than 0, e.g. 1")
