"""The stream of batches that one rank reads from shards, each sample exactly once an epoch.

Samples are read in sequence, mixed in a bounded buffer while still undecoded, and decoded last: so a resume
reads past what was seen without decoding it. What a sample becomes depends on (seed, epoch, key) alone, never
on what was read before it.
"""

import random
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import islice
from typing import Any

import torch
from torch.utils.data import IterableDataset, get_worker_info

from cmd_lightning.data.clips import BadSample, ClipLoader
from cmd_lightning.data.index import Shard, is_member, is_remote, require_reachable
from cmd_lightning.data.plan import Interval, assign, batch_sizes, stable_hash
from cmd_lightning.errors import InputError
from cmd_lightning.video_io import VIDEO_SUFFIXES

_SUFFIXES = {*VIDEO_SUFFIXES, "txt", "json"}
_STANDBY = 8  # undecoded samples kept to stand in for a bad one
_MISSING = "unreadable shard"


class ShardStream(IterableDataset):
    """Batches of one rank, for a DataLoader with `batch_size=None` and any number of workers.

    A bad sample is replaced: by the last good one of the eight before it, else by the first good one of the
    reader, else of all shards. `batch["bad"]` counts them by reason.

    Args:
        shards: with their numbers of samples.
        clips: makes a clip of a sample.
        batch_size: samples in a batch, per rank.
        rank: which process this is, from 0.
        ranks: how many there are.
        seed: of the order and of every draw.
        shuffle_buffer: undecoded samples among which the next one is drawn; 0 keeps the order of the shards.
        shuffle: draw the order of the shards anew each epoch.
    """

    def __init__(
        self,
        shards: Sequence[Shard],
        clips: ClipLoader,
        *,
        batch_size: int,
        rank: int = 0,
        ranks: int = 1,
        seed: int = 0,
        shuffle_buffer: int = 0,
        shuffle: bool = False,
    ) -> None:
        super().__init__()
        self.shards = list(shards)
        self.clips = clips
        self.batch_size = batch_size
        self.rank = rank
        self.ranks = ranks
        self.seed = seed
        self.shuffle_buffer = shuffle_buffer
        self.shuffle = shuffle
        self._sizes = batch_sizes(sum(shard.good for shard in self.shards), ranks, batch_size)[rank]
        self._epoch = 0
        self._first = 0

    def fingerprint(self, workers: int) -> str:
        """What a number of batches done holds for: with another fingerprint it means other samples."""
        shards = [(shard.url.rpartition("/")[2], shard.good) for shard in self.shards]
        cut = (self.batch_size, self.ranks, max(workers, 1), self.seed, self.shuffle_buffer)
        return f"{stable_hash(shards, cut):016x}"

    def begin(self, epoch: int, first_batch: int = 0) -> None:
        """Say where the next pass begins: in this epoch, at this batch."""
        self._epoch = epoch
        self._first = first_batch

    def __len__(self) -> int:
        """Batches in a whole epoch, the same on every rank, wherever the next pass begins."""
        return len(self._sizes)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Yield the batches of this worker: v, v + W, ... counted from the first batch of the pass."""
        info = get_worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        # Batch i of an epoch is served by reader i % W, whichever worker process plays it after a resume.
        reader = (self._first + worker) % workers
        plan = assign(
            [shard.good for shard in self.shards],
            ranks=self.ranks,
            workers=workers,
            batch_size=self.batch_size,
            seed=self.seed,
            epoch=self._epoch,
            shuffle=self.shuffle,
        )
        intervals = plan[self.rank][reader]
        samples = self._mixed(self._read(intervals), reader)
        standby = _Standby(self, intervals)
        for batch in range(reader, len(self._sizes), workers):
            if batch < self._first:
                for _ in range(self._sizes[batch]):
                    standby.keep(next(samples))
            else:
                bad: Counter[str] = Counter()
                try:
                    clips = [standby.decode(next(samples), bad) for _ in range(self._sizes[batch])]
                except InputError as error:
                    yield {"error": str(error)}
                    return
                yield collate(clips) | {"bad": dict(bad)}

    def decode(self, sample: dict[str, Any], instead_of: str = "") -> dict[str, Any]:
        """Decode one sample with the draws that belong to it in this epoch."""
        if _MISSING in sample:
            raise BadSample(_MISSING)
        return self.clips(sample, stable_hash("clip", self.seed, self._epoch, sample["__key__"], instead_of))

    def _mixed(self, samples: Iterator[dict[str, Any]], reader: int) -> Iterator[dict[str, Any]]:
        chance = random.Random(stable_hash("buffer", self.seed, self._epoch, self.rank, reader))
        buffer: list[dict[str, Any]] = []
        for sample in samples:
            buffer.append(sample)
            if len(buffer) > self.shuffle_buffer:
                yield _draw(buffer, chance)
        while buffer:
            yield _draw(buffer, chance)

    def _read(self, intervals: Sequence[Interval]) -> Iterator[dict[str, Any]]:
        """Exactly as many samples as the intervals promise; what a shard fails to give is marked as missing."""
        for interval in intervals:
            shard = self.shards[interval.shard]
            skip, left = interval.start, interval.stop - interval.start
            while left:
                before = left
                for sample in islice(read_shard(shard), skip, None):
                    yield sample
                    left -= 1
                    if not left:
                        break
                if shard.exact or (skip == 0 and left == before):
                    break
                skip = 0  # an assumed number was too high: the shard is read again from its start
            for missing in range(left):
                yield {"__key__": f"{shard.url} {interval.stop - missing}", _MISSING: True}


class _Standby:
    """Decodes the samples of a reader and finds a stand-in for a bad one, the same one wherever a resume began."""

    def __init__(self, stream: ShardStream, intervals: Sequence[Interval]) -> None:
        self._stream = stream
        self._intervals = intervals
        self._before: deque[dict[str, Any]] = deque(maxlen=_STANDBY)
        self._first_good: dict[str, Any] | None = None

    def keep(self, sample: dict[str, Any]) -> None:
        self._before.append(sample)

    def decode(self, sample: dict[str, Any], bad: Counter[str]) -> dict[str, Any]:
        try:
            return self._stream.decode(sample)
        except BadSample as reason:
            bad[str(reason)] += 1
            return self._replace(sample["__key__"])
        finally:
            self.keep(sample)

    def _replace(self, key: str) -> dict[str, Any]:
        for candidate in reversed(self._before):
            try:
                return self._stream.decode(candidate, instead_of=key)
            except BadSample:
                continue
        if self._first_good is None:
            self._first_good = self._find_first_good()
        return self._stream.decode(self._first_good, instead_of=key)

    def _find_first_good(self) -> dict[str, Any]:
        everything = [Interval(number, 0, shard.good) for number, shard in enumerate(self._stream.shards)]
        for intervals in (self._intervals, everything):
            reasons: Counter[str] = Counter()
            for sample in self._stream._read(intervals):
                try:
                    self._stream.decode(sample)
                    return sample
                except BadSample as reason:
                    reasons[str(reason)] += 1
        if set(reasons) == {_MISSING}:
            for shard in self._stream.shards:
                if is_remote(shard.url):
                    require_reachable(shard.url)
        shards = ", ".join(shard.url for shard in self._stream.shards)
        raise InputError(f"{shards}: no usable clip ({describe(reasons)}); run `shards check` on these shards")


def read_shard(shard: Shard) -> Iterator[dict[str, Any]]:
    """The good samples of a shard in order, undecoded: members by suffix, and "__key__".

    Ends early where the file does: a shard that cannot be opened gives none.
    """
    from webdataset.tariterators import group_by_keys, tar_file_expander, url_opener

    def stop(_: Exception) -> bool:
        return False

    def wanted(name: str) -> bool:
        return is_member(name) and name.rpartition("/")[2].partition(".")[2].lower() in _SUFFIXES

    opened = list(url_opener([{"url": shard.url}], handler=stop))
    try:
        for sample in group_by_keys(tar_file_expander(opened, handler=stop, select_files=wanted), handler=stop):
            if sample["__key__"] not in shard.bad:
                yield sample
    finally:
        for source in opened:
            with suppress(OSError):  # what a download tool says of being stopped early
                source["stream"].close()


def collate(clips: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Batch clips: video uint8 (B, C, T, H, W), caption and key lists, label int64 (B,), fps float32 (B,)."""
    return {
        "video": torch.stack([clip["video"] for clip in clips]),
        "caption": [clip["caption"] for clip in clips],
        "label": torch.tensor([clip["label"] for clip in clips], dtype=torch.int64),
        "key": [clip["key"] for clip in clips],
        "fps": torch.tensor([clip["fps"] for clip in clips], dtype=torch.float32),
    }


def describe(bad: dict[str, int]) -> str:
    """Counts by reason in words: "3 too short, 1 unreadable video"."""
    return ", ".join(f"{number} {reason}" for reason, number in sorted(bad.items()))


def _draw(buffer: list[dict[str, Any]], chance: random.Random) -> dict[str, Any]:
    chosen = chance.randrange(len(buffer))
    buffer[chosen], buffer[-1] = buffer[-1], buffer[chosen]
    return buffer.pop()
