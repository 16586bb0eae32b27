"""WebVidDataModule: shards of captioned video for a Trainer, with the position in them as part of a checkpoint."""

import math
import warnings
from typing import Any, Literal

from lightning import LightningDataModule
from torch.utils.data import DataLoader

from cmd_lightning.data.cache import ShardCache
from cmd_lightning.data.clips import ClipLoader
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


class WebVidDataModule(LightningDataModule):
    """Clips from shards in the layout video2dataset writes for WebVid: `{key}.mp4`, `.txt`, `.json`.

    Every good sample comes exactly once an epoch, and every rank gets the same number of batches. Training
    draws the order, the beginning of each clip and, if wanted, the crop; evaluation keeps the order of the
    shards, begins at the first frame and crops in the middle. A fit resumed from a checkpoint goes on at the
    next batch.

    A batch is a dictionary: "video" uint8 (B, C, T, H, W), "caption" list of str, "label" int64 (B,) with -1
    for none, "key" list of str, "fps" float32 (B,).

    Args:
        train_shards: .tar files for training: paths, globs, folders, brace ranges or http(s) addresses.
        val_shards: the same for validation.
        test_shards: the same for testing and prediction.
        num_frames: frames of a clip.
        size: height and width of a clip in pixels, one number for a square.
        fps: frames per second at which clips are sampled; give this or stride.
        stride: distance of a clip's frames in source frames; 1 if fps is not given either.
        batch_size: clips in a batch, per device.
        num_workers: loader processes, per device.
        seed: of every random choice of the data.
        shuffle_buffer: undecoded samples, per worker, among which the next one is drawn in training.
        crop: where training crops to the size; "random" draws it for each clip.
        max_bad_share: the largest share of bad samples to go on with, from 0 to 1. They are replaced and counted; more
            of them, or of those that the index knows, end the run with a list.
        remote: how shards at addresses are fetched and kept.
    """

    def __init__(
        self,
        train_shards: str | list[str] | None = None,
        val_shards: str | list[str] | None = None,
        test_shards: str | list[str] | None = None,
        num_frames: int = 16,
        size: int | list[int] = 64,
        fps: float | None = None,
        stride: int | None = None,
        batch_size: int = 8,
        num_workers: int = 0,
        seed: int = 0,
        shuffle_buffer: int = 100,
        crop: Literal["center", "random"] = "center",
        max_bad_share: float = 0.1,
        remote: ShardCache | None = None,
    ) -> None:
        super().__init__()
        if fps is not None and stride is not None:
            raise InputError(f"fps {fps} and stride {stride}: give one of the two")
        for name, value, least in (
            ("num_frames", num_frames, 1),
            ("batch_size", batch_size, 1),
            ("num_workers", num_workers, 0),
            ("shuffle_buffer", shuffle_buffer, 0),
            ("stride", 1 if stride is None else stride, 1),
        ):
            if value < least:
                raise InputError(f"{name} {value}: must be at least {least}")
        if fps is not None and not 0 < fps < math.inf:
            raise InputError(f"fps {fps}: must be a number above 0, e.g. 8")
        if not 0 <= max_bad_share <= 1:
            raise InputError(f"max_bad_share {max_bad_share}: give a share from 0 to 1, e.g. 0.1")
        sides = [size, size] if isinstance(size, int) else list(size)
        if len(sides) != 2 or min(sides) < 1:
            raise InputError(f"size {size}: give one side or [height, width], in pixels, at least 1")
        self.shards = {"train_shards": train_shards, "val_shards": val_shards, "test_shards": test_shards}
        self.num_frames, self.size = num_frames, (sides[0], sides[1])
        self.fps, self.stride = fps, stride or (None if fps else 1)
        self.batch_size, self.num_workers = batch_size, num_workers
        self.seed, self.shuffle_buffer, self.crop = seed, shuffle_buffer, crop
        self.max_bad_share, self.remote = max_bad_share, remote or ShardCache()
        self._found: dict[str, list[Shard]] = {}
        self._position = Position()

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
        clip = {"frames": self.num_frames, "size": list(self.size), "stride": self.stride, "fps": self.fps}
        return {"data": type(self).__name__, "shards": self.shards["test_shards"], **clip, "start": "first frame"}

    def _loader(self, option: str, *, training: bool = False, **options: Any) -> DataLoader:
        return StreamLoader(
            self._stream(option, training=training),
            shards=self._find(option),
            max_bad_share=self.max_bad_share,
            num_workers=self.num_workers,
            **options,
        )

    def _stream(self, option: str, *, training: bool) -> ShardStream:
        clips = ClipLoader(
            self.num_frames,
            self.size,
            fps=self.fps,
            stride=self.stride,
            random_start=training,
            random_crop=training and self.crop == "random",
        )
        return ShardStream(
            self._find(option),
            clips,
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
