"""The stream of batches that one rank reads from shards, each sample exactly once an epoch.

Samples are found in sequence, mixed in a bounded buffer, and read and decoded last: so the buffer holds no video,
and a resume goes past what was seen without reading it. What a sample becomes depends on (seed, epoch, key)
alone, never on what was read before it.
"""

import random
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import KW_ONLY, dataclass, field, replace
from itertools import islice
from threading import Thread
from typing import Any, BinaryIO, NamedTuple

from torch.utils.data import get_worker_info

from cmd_lightning.data.batch import BatchStream
from cmd_lightning.data.cache import ShardCache
from cmd_lightning.data.clips import BadSample, SampleLoader, collate
from cmd_lightning.data.fetch import FetchError
from cmd_lightning.data.index import Shard, is_remote, shard_names
from cmd_lightning.data.plan import Interval, assign, batch_sizes, clip_draw, stable_hash
from cmd_lightning.data.tar import Sample, read_samples
from cmd_lightning.data.watchdog import Watchdog
from cmd_lightning.errors import InputError

_STANDBY = 8  # samples kept to stand in for a bad one
_SEARCHED = 1000  # samples tried for one that can stand in where none of these can


class Bad(NamedTuple):
    """A sample that could not be used: the reason it is counted under, and where it is."""

    reason: str
    place: str


@dataclass(eq=False)
class ShardStream(BatchStream):
    """Batches of one rank, for a DataLoader with `batch_size=None` and any number of workers.

    The key of a clip is that of its sample after the name of its shard, "000000/0001", so that it is unique.
    A bad sample is replaced: by the last good one of the eight before it, else by the first good one of the
    reader, else of all shards. `batch["bad"]` lists them.
    """

    shards: Sequence[Shard]
    clips: SampleLoader
    _: KW_ONLY
    batch_size: int  # per rank
    rank: int = 0
    ranks: int = 1
    seed: int = 0  # of the order and of every random choice
    shuffle_buffer: int = 0  # undecoded samples among which the next one is drawn; 0 keeps the order of the shards
    shuffle: bool = False  # each epoch has another order of the shards
    remote: ShardCache = field(default_factory=ShardCache)  # fetches a shard while the one before it is read

    def __post_init__(self) -> None:
        """Cut the epoch into batches."""
        self._sizes = batch_sizes(sum(shard.good for shard in self.shards), self.ranks, self.batch_size)[self.rank]
        self._names = shard_names([shard.url for shard in self.shards])
        self._watchdog = Watchdog()

    def fingerprint(self, workers: int) -> str:
        shards = [(shard.url.rpartition("/")[2], shard.good) for shard in self.shards]
        cut = (self.batch_size, self.ranks, max(workers, 1), self.seed, self.shuffle_buffer)
        return f"{stable_hash(shards, cut):016x}"

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Yield the batches of this worker: v, v + W, ... counted from the first batch of the pass.

        The last one is {"error": message} where the run cannot continue.
        """
        try:
            yield from self._batches()
        except InputError as error:
            yield {"error": str(error)}

    def _batches(self) -> Iterator[dict[str, Any]]:
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
                standby.before.extend(islice(samples, self._sizes[batch]))
            else:
                bad: list[Bad] = []
                clips = [standby.decode(next(samples), bad) for _ in range(self._sizes[batch])]
                yield collate(clips) | {"epoch": self._epoch, "bad": bad}

    def decode(self, sample: Sample, instead_of: str = "") -> dict[str, Any]:
        """Read and decode one sample with the draws that belong to it in this epoch; raises `BadSample`."""
        draw = clip_draw(self.seed, self._epoch, sample.key, instead_of)
        with self._watchdog.watch(sample.place):
            return self.clips(sample.read(), draw, self._epoch)

    def _mixed(self, samples: Iterator[Sample], reader: int) -> Iterator[Sample]:
        chance = random.Random(stable_hash("buffer", self.seed, self._epoch, self.rank, reader))
        buffer: list[Sample] = []
        for sample in samples:
            buffer.append(sample)
            if len(buffer) > self.shuffle_buffer:
                yield _draw(buffer, chance)
        while buffer:
            yield _draw(buffer, chance)

    def _read(self, intervals: Sequence[Interval]) -> Iterator[Sample]:
        """Exactly as many samples as the intervals promise; those that a shard fails to give come with that fault."""
        ahead = None
        for number, interval in enumerate(intervals):
            shard = self.shards[interval.shard]
            left = interval.stop - interval.start
            problem = f"{shard.url}: holds fewer samples than its index says; run `shards check` on it"
            try:
                file = ahead.result() if ahead else shard.open(self.remote)
                following = [self.shards[other.shard] for other in intervals[number + 1 : number + 2]]
                ahead = _open_ahead(following[0], self.remote) if following and is_remote(following[0].url) else None
                good = (sample for sample in read_samples(file, shard.url) if sample.key not in shard.bad)
                for sample in islice(good, interval.start, interval.stop):
                    yield replace(sample, key=f"{self._names[interval.shard]}/{sample.key}")
                    left -= 1
            except FetchError as error:
                problem, ahead = str(error), None
            except OSError as error:
                problem, ahead = f"{shard.url}: {error.strerror or error}", None
            for missing in range(left):
                key = f"{shard.url} {interval.stop - missing}"
                yield Sample(key, fault="unreadable shard", place=problem)


def _open_ahead(shard: Shard, remote: ShardCache) -> Future[BinaryIO]:
    """Open a remote shard while the one before it is read."""
    opened: Future[BinaryIO] = Future()

    def run() -> None:
        try:
            opened.set_result(shard.open(remote))
        except Exception as error:  # raised where the shard is wanted
            opened.set_exception(error)

    Thread(target=run, daemon=True).start()  # unlike an executor's, a process that ends does not wait for it
    return opened


class _Standby:
    """Decodes the samples of a reader and finds a stand-in for a bad one, the same one wherever a resume began."""

    def __init__(self, stream: ShardStream, intervals: Sequence[Interval]) -> None:
        self._stream, self._intervals = stream, intervals
        self.before: deque[Sample] = deque(maxlen=_STANDBY)
        self._first_good: Sample | None = None

    def decode(self, sample: Sample, bad: list[Bad]) -> dict[str, Any]:
        try:
            return self._stream.decode(sample)
        except BadSample as reason:
            bad.append(Bad(str(reason), sample.place))
            return self._replace(sample.key)
        finally:
            self.before.append(sample)

    def _replace(self, key: str) -> dict[str, Any]:
        for candidate in reversed(self.before):
            try:
                return self._stream.decode(candidate, instead_of=key)
            except BadSample:
                continue
        if self._first_good is None:
            self._first_good = self._find_first_good()
        return self._stream.decode(self._first_good, instead_of=key)

    def _find_first_good(self) -> Sample:
        everything = [Interval(number, 0, shard.good) for number, shard in enumerate(self._stream.shards)]
        for intervals in (self._intervals, everything):
            bad = []
            for sample in islice(self._stream._read(intervals), _SEARCHED):
                try:
                    self._stream.decode(sample)
                    return sample
                except BadSample as reason:
                    bad.append(Bad(str(reason), sample.place))
        remedy = "lower data.num_frames, or data.stride, or raise data.fps; or " if "too short" in dict(bad) else ""
        raise InputError(
            f"no usable clip among {len(bad)}: {list_bad(bad, most=1)}; {remedy}run `shards check` on these shards"
        )


def known_bad(shards: Sequence[Shard]) -> list[Bad]:
    """What the index of the shards knows to be bad."""
    return [Bad(reason, f"{shard.url} {key}") for shard in shards for key, reason in shard.bad.items()]


def describe(bad: dict[str, int]) -> str:
    """Counts by reason in words: "3 too short, 1 unreadable video"."""
    return ", ".join(f"{number} {reason}" for reason, number in sorted(bad.items()))


def list_bad(bad: Sequence[Bad], most: int = 20) -> str:
    """Counts by reason, and which they are: "2 too short, 1 no video (a.tar 0003; a.tar 0007; b.tar 0001)".

    At most `most` of them are named.
    """
    places = list(dict.fromkeys(sample.place for sample in bad))
    more = f"; and {len(places) - most} more" if len(places) > most else ""
    return f"{describe(Counter(sample.reason for sample in bad))} ({'; '.join(places[:most])}{more})"


def _draw(buffer: list[Sample], chance: random.Random) -> Sample:
    chosen = chance.randrange(len(buffer))
    buffer[chosen], buffer[-1] = buffer[-1], buffer[chosen]
    return buffer.pop()
