"""ShapesDataModule: clips of the procedural world, rendered as they are needed, without files and without end."""

import math
import random
from collections.abc import Iterator, Sequence
from itertools import accumulate, chain
from typing import Any, get_args

from cmd_lightning.data.clips import collate
from cmd_lightning.data.loader import BatchStream, Split, StreamDataModule
from cmd_lightning.data.plan import batch_sizes, stable_hash
from cmd_lightning.errors import InputError, check_at_least, check_positive
from cmd_lightning.shapes.painting import make_clip
from cmd_lightning.shapes.scenes import SHAPES, Level, Motion

MOST_PIXELS = 4096
"""A side of the largest clips, of which each frame takes 0.6 GB while it is drawn."""


class SceneStream(BatchStream):
    """Batches of rendered clips of one rank: planned clips, rendered in batches.

    Clip i of epoch e is clip `e * num + i` of the seed: an epoch is only a stretch of an endless row. With `repeat` it
    is clip `i` in every epoch. An epoch has `num` clips on all ranks together. Each clip has one of the levels and one
    of the motions; further options are those of `make_clip`.
    """

    def __init__(
        self,
        num: int,
        *,
        levels: Sequence[Level],
        motions: Sequence[Motion],
        batch_size: int,
        rank: int = 0,
        ranks: int = 1,
        seed: int = 0,
        repeat: bool = False,
        **options: Any,
    ) -> None:
        shares = batch_sizes(num, ranks, batch_size)
        super().__init__(shares[rank], self.planned_clips, self.rendered)
        self.num, self.levels, self.motions, self.options = num, list(levels), list(motions), options
        self.batch_size, self.rank, self.ranks, self.seed, self.repeat = batch_size, rank, ranks, seed, repeat
        in_order = chain.from_iterable(zip(*shares, strict=True))  # by step, then by rank
        self._starts = list(accumulate(in_order, initial=0))[rank::ranks]

    def fingerprint(self, workers: int) -> str:
        """What a number of batches done holds for; how many workers there are does not matter."""
        options = sorted(self.options.items())
        cut = (self.num, self.levels, self.motions, options, self.batch_size, self.ranks, self.seed, self.repeat)
        return f"{stable_hash(cut):016x}"

    def planned_clips(self) -> Iterator[range]:
        """Numbers of the clips of each batch of this worker, from the first batch of the pass on."""
        reader, workers = self.reader()
        for batch in range(self._first + (reader - self._first) % workers, len(self), workers):
            first = (0 if self.repeat else self._epoch * self.num) + self._starts[batch]
            yield range(first, first + self._sizes[batch])

    def rendered(self, batches: Iterator[range]) -> Iterator[dict[str, Any]]:
        """Batches of clips."""
        for numbers in batches:
            yield collate([self.clip(number) for number in numbers]) | {"epoch": self._epoch, "bad": []}

    def clip(self, index: int) -> dict[str, Any]:
        """Render one clip."""
        chance = random.Random(stable_hash("options", self.seed, index))
        level, motion = chance.choice(self.levels), chance.choice(self.motions)
        video, facts = make_clip(self.seed, index, level=level, motion=motion, **self.options)
        return {name: facts[name] for name in ("caption", "label", "fps")} | {"video": video, "key": f"{index:09d}"}


class ShapesDataModule(StreamDataModule):
    """The procedural world without shards: every training clip is new, or with `repeat` new in the first epoch.

    A run resumed from a checkpoint continues at the next clip. Training shows only the "seen" combinations of shape,
    colour and direction, validation and testing show all. A batch is that of `WebVidDataModule`.

    Args:
        level: "plain" or "mixed", or several, of which each clip draws one; one named twice is drawn twice as often.
        motion: One or several of still, slow, middle, fast, extreme.
        train_clips: Clips of an epoch; the next epoch has new ones, or with `repeat` the same ones.
        repeat: Whether every epoch shows the same clips, as a component that caches latents needs it.
        val_clips: Clips for validation.
        test_clips: Clips for testing and prediction.
        num_frames: Frames of a clip.
        size: Side of the frames in pixels.
        fps: Frames per second.
        batch_size: Clips in a batch, per device.
        num_workers: Loader processes, per device.
        seed: Of the clips.
    """

    options: dict[str, Any]

    def __init__(
        self,
        level: str | list[str] = "plain",
        motion: str | list[str] = "middle",
        train_clips: int = 100_000,
        val_clips: int = 64,
        test_clips: int = 256,
        num_frames: int = 16,
        size: int = 64,
        fps: float = 8.0,
        batch_size: int = 8,
        num_workers: int = 0,
        seed: int = 0,
        repeat: bool = False,
    ) -> None:
        super().__init__()
        levels = [level] if isinstance(level, str) else list(level)
        motions = [motion] if isinstance(motion, str) else list(motion)
        for name, given, known in (("level", levels, get_args(Level)), ("motion", motions, get_args(Motion))):
            if not given or set(given) - set(known):
                raise InputError(f"{name} {', '.join(given)}: give one or several of {', '.join(known)}")
        check_positive(train_clips=train_clips, test_clips=test_clips, num_frames=num_frames, batch_size=batch_size)
        check_at_least(0, val_clips=val_clips, num_workers=num_workers)
        check_at_least(8, size=size)
        if size > MOST_PIXELS:
            raise InputError(f"size {size}: clips have at most {MOST_PIXELS} pixels per side; give a smaller size")
        if not 0 < fps < math.inf:
            raise InputError(f"fps {fps}: give a positive number of frames per second")
        self.clips = {"train": train_clips, "val": val_clips, "test": test_clips}
        self.options = {"levels": levels, "motions": motions, "size": size, "frames": num_frames, "fps": fps}
        self.batch_size, self.num_workers, self.seed, self.repeat = batch_size, num_workers, seed, repeat

    def describe(self) -> dict[str, Any]:
        """What the test clips are, as plain data for the record of a result."""
        return {"data": type(self).__name__, "split": "test", "seed": self.seed, **self.options}

    def num_classes(self) -> int:
        """Number of classes: the shapes."""
        return len(SHAPES)

    def has(self, split: Split) -> bool:
        """Whether there are clips of a split."""
        return self.clips[split] > 0

    def stream(self, split: Split) -> SceneStream:
        """New clips for training; for the other splits the same ones each time."""
        return SceneStream(
            self.clips[split],
            **self.options,
            batch_size=self.batch_size,
            combinations="seen" if split == "train" else "all",
            rank=self.trainer.global_rank if self.trainer else 0,
            ranks=self.trainer.world_size if self.trainer else 1,
            seed=stable_hash(self.seed, split),
            repeat=self.repeat,
        )
