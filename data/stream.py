"""The stream of batches that one rank reads from shards, each sample exactly once an epoch.

Samples are found in sequence, mixed in a bounded buffer, and read and decoded last: so the buffer holds no video,
and a resume skips what was seen without reading it. What a sample becomes depends on (seed, epoch, key)
alone, never on what was read before it.
"""

import random
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import islice
from threading import Thread
from typing import Any, BinaryIO

import webdataset

from cmd_lightning.data.bad_samples import Bad, list_bad
from cmd_lightning.data.cache import ShardCache
from cmd_lightning.data.clips import BadSample, SampleLoader, collate
from cmd_lightning.data.fetch import FetchError
from cmd_lightning.data.index import Shard, is_remote, shard_names
from cmd_lightning.data.loader import BatchStream
from cmd_lightning.data.plan import Interval, Part, assign, batch_sizes, clip_draw, stable_hash
from cmd_lightning.data.stages import Stage, Stages
from cmd_lightning.data.tar import Sample
from cmd_lightning.data.watchdog import Watchdog
from cmd_lightning.errors import InputError

_STANDBY = 8  # samples kept to replace a bad one
_SEARCHED = 1000  # samples tried where none of these is good


class ShardStream(BatchStream):
    """Batches of one rank: planned shards, samples from tar, shuffle, the user's stages, decode, batches.

    The key of a clip is that of its sample after the name of its shard, "000000/0001", so that it is unique.
    A bad sample is replaced, see `Standby`; `batch["bad"]` lists them.

    Args:
        shards: What is read.
        clips: Loads a clip from the members of a sample.
        batch_size: Samples in a batch, per rank.
        rank: This process, of `ranks`.
        ranks: Number of processes.
        shuffle: Whether each epoch has another order of the shards.
        parts: Data sets that the shards belong to, if an epoch takes them in a given proportion.
        seed, shuffle_buffer, stages, remote: As of `ShardDataModule`.
    """

    def __init__(
        self,
        shards: Sequence[Shard],
        clips: SampleLoader,
        *,
        batch_size: int,
        rank: int = 0,
        ranks: int = 1,
        seed: int = 0,
        shuffle_buffer: int = 0,
        shuffle: bool = False,
        parts: Sequence[Part] = (),
        stages: Sequence[Stage] = (),
        remote: ShardCache | None = None,
    ) -> None:
        self.shards, self.clips, self.rank, self.seed = shards, clips, rank, seed
        self.shuffle_buffer, self.parts, self.remote = shuffle_buffer, parts, remote or ShardCache()
        good = [shard.good for shard in shards]
        self.stages = Stages(stages)
        super().__init__(
            batch_sizes(sum(part.samples for part in parts) or sum(good), ranks, batch_size)[rank],
            self.planned_shards,
            self.tar_samples,
            self.shuffled,
            self.stages,
            self.decoded,
            self.batched,
        )
        self._plan = partial(assign, good, ranks=ranks, batch_size=batch_size, seed=seed, shuffle=shuffle, parts=parts)
        self._cut = (batch_size, ranks), (seed, shuffle_buffer), (*parts, *self.stages.names)
        self._names = shard_names([shard.url for shard in shards])
        self._watchdog = Watchdog()

    def fingerprint(self, workers: int) -> str:
        shards = [(shard.url.rpartition("/")[2], shard.good) for shard in self.shards]
        first, last, own = self._cut
        return f"{stable_hash(shards, (*first, max(workers, 1), *last), *own):016x}"

    def planned_shards(self) -> Iterator[Interval]:
        """The parts of shards that this worker reads: webdataset's splitters give whole ones, so some have more."""
        reader, workers = self.reader()
        yield from self._plan(workers=workers, epoch=self._epoch)[self.rank][reader]

    def tar_samples(self, intervals: Iterable[Interval]) -> Iterator[Sample]:
        """Samples by the headers of their shards: webdataset's reader loads each, and does not know how many come.

        Samples of several data sets are mixed at random, each chosen in proportion to the samples that are left of it.
        """
        planned = list(intervals)
        sets = [[one for one in planned if one.shard in part.shards] for part in self.parts] or [planned]
        left = [sum(one.stop - one.start for one in own) for own in sets]
        samples = [self.read(own) for own in sets]
        chance = self._chance("sets")
        while any(left):
            [chosen] = chance.choices(range(len(sets)), left) if len(sets) > 1 else [0]
            left[chosen] -= 1
            yield next(samples[chosen])

    def shuffled(self, samples: Iterator[Sample]) -> Iterator[Sample]:
        """Samples in the order of webdataset's shuffle, seeded."""
        size = self.shuffle_buffer + 1
        return webdataset.shuffle(size, initial=size, rng=self._chance("buffer"))(samples)

    def decoded(self, samples: Iterator[Sample]) -> Iterator[tuple[dict[str, Any], list[Bad]]]:
        """Clips from the first batch of the pass on, each with what it replaces: webdataset's decoder unpickles."""
        reader, workers = self.reader()
        standby = Standby(self)
        standby.before.extend(islice(samples, sum(self._sizes[reader : self._first : workers])))
        yield from map(standby.decode, samples)

    def batched(self, clips: Iterator[tuple[dict[str, Any], list[Bad]]]) -> Iterator[dict[str, Any]]:
        """Batches as they are planned, the last ones of an epoch in part; webdataset's have one size.

        The last one is {"error": message} where the run cannot continue.
        """
        reader, workers = self.reader()
        try:
            for size in self._sizes[self._first + (reader - self._first) % workers :: workers]:
                own = list(islice(clips, size))
                bad = [one for _, listed in own for one in listed]
                yield collate([clip for clip, _ in own]) | {"epoch": self._epoch, "bad": bad}
        except InputError as error:
            yield {"error": str(error)}

    def decode(self, sample: Sample, instead_of: str = "") -> dict[str, Any]:
        """Read and decode one sample with its random choices of this epoch; raises `BadSample`."""
        draw = clip_draw(self.seed, self._epoch, sample.key, instead_of)
        with self._watchdog.watch(sample.place):
            return self.clips(sample.read(), draw, self._epoch)

    def read(self, intervals: Sequence[Interval]) -> Iterator[Sample]:
        """Exactly as many samples as the intervals promise; those that a shard fails to give come with that fault."""
        ahead = None
        for number, interval in enumerate(intervals):
            shard = self.shards[interval.shard]
            left = interval.stop - interval.start
            problem = f"{shard.url}: holds fewer samples than its index says; run `shards check` on it"
            again = f"@{interval.again}" if interval.again else ""
            try:
                file = ahead.result() if ahead else shard.open(self.remote)
                following = [self.shards[other.shard] for other in intervals[number + 1 : number + 2]]
                ahead = _open_ahead(following[0], self.remote) if following and is_remote(following[0].url) else None
                for sample in islice(shard.usable(file), interval.start, interval.stop):
                    yield replace(sample, key=f"{self._names[interval.shard]}/{sample.key}{again}")
                    left -= 1
            except FetchError as error:
                problem, ahead = str(error), None
            except OSError as error:
                problem, ahead = f"{shard.url}: {error.strerror or error}", None
            for missing in range(left):
                key = f"{shard.url} {interval.stop - missing}"
                yield Sample(key, fault="unreadable shard", place=problem)

    def _chance(self, purpose: str) -> random.Random:
        return random.Random(stable_hash(purpose, self.seed, self._epoch, self.rank, self.reader()[0]))


class Standby:
    """Decodes the samples of a reader and replaces a bad one, by the same one wherever a resume began.

    It is the last good one of the eight before it, else the first good one of the reader, else of all shards.
    """

    def __init__(self, stream: ShardStream) -> None:
        self._stream = stream
        self.before: deque[Sample] = deque(maxlen=_STANDBY)
        self._first_good: Sample | None = None

    def decode(self, sample: Sample) -> tuple[dict[str, Any], list[Bad]]:
        """The clip of a sample; or of one that replaces it, and the reason."""
        try:
            return self._stream.decode(sample), []
        except BadSample as reason:
            return self._replace(sample.key), [Bad(str(reason), sample.place)]
        finally:
            self.before.append(sample)

    def _replace(self, key: str) -> dict[str, Any]:
        for candidate in reversed(self.before):
            with suppress(BadSample):
                return self._stream.decode(candidate, instead_of=key)
        self._first_good = self._first_good or self._find_first_good()
        return self._stream.decode(self._first_good, instead_of=key)

    def _find_first_good(self) -> Sample:
        stream, bad = self._stream, list[Bad]()
        everything = [Interval(number, 0, shard.good) for number, shard in enumerate(stream.shards)]
        for intervals in ([*stream.planned_shards()], everything):
            bad = []
            for sample in islice(stream.stages(stream.read(intervals)), _SEARCHED):
                try:
                    stream.decode(sample)
                    return sample
                except BadSample as reason:
                    bad.append(Bad(str(reason), sample.place))
        remedy = "lower data.num_frames, or data.stride, or raise data.fps; or " if "too short" in dict(bad) else ""
        if "still image" in dict(bad):
            remedy = "set data.images still for clips without motion; or "
        if self._stream.stages.names and "no video" in dict(bad):
            remedy = "let data.stages keep the video; or "
        raise InputError(
            f"no usable clip among {len(bad)}: {list_bad(bad, most=1)}; {remedy}run `shards check` on these shards"
        )


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
