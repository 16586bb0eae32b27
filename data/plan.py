"""Which reader reads which samples, and what random draws hang on: pure functions, alike on all ranks."""

import hashlib
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from cmd_lightning.errors import InputError


@dataclass(frozen=True)
class Interval:
    """Good samples `start` to `stop` (exclusive) of a shard, counted from 0 in the order of the file."""

    shard: int
    start: int
    stop: int


def stable_hash(*parts: object) -> int:
    """A 63-bit number that depends on nothing but the parts: the same in every process, on every machine."""
    digest = hashlib.blake2b("\x1f".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def unique_names(names: Sequence[str]) -> list[str]:
    """The names, each but the first of equal ones with a number: "a", "b", "a~2"."""
    times: Counter[str] = Counter()
    unique = []
    for name in names:
        times[name] += 1
        unique.append(name if times[name] == 1 else f"{name}~{times[name]}")
    return unique


def clip_draw(seed: int, epoch: int, key: str, instead_of: str = "") -> int:
    """What a clip's start and crop are drawn from; `instead_of` is the key of a bad sample that it stands in for."""
    return stable_hash("clip", seed, epoch, key, instead_of)


def batch_sizes(samples: int, ranks: int, batch_size: int) -> list[list[int]]:
    """Cut an epoch into batches: as many on every rank, none empty, every sample in exactly one.

    All batches are full but those of the last step, which share what is left. Where that would be fewer
    samples than ranks, the last two steps share. With batches of one even that does not go round: then the
    last batch of some ranks has two samples. Raises `InputError` if there are fewer samples than ranks.
    """
    if samples < ranks:
        raise InputError(f"{samples} samples for {ranks} ranks: add clips or use fewer devices")
    full, rest = divmod(samples, ranks * batch_size)
    if rest == 0:
        return [[batch_size] * full for _ in range(ranks)]
    if rest >= ranks:
        return [[batch_size] * full + [share] for share in _shares(rest, ranks)]
    shares = _shares(ranks * batch_size + rest, ranks)
    if batch_size == 1:
        return [[1] * (full - 1) + [share] for share in shares]
    return [[batch_size] * (full - 1) + _shares(share, 2) for share in shares]


def assign(
    counts: Sequence[int], *, ranks: int, workers: int, batch_size: int, seed: int, epoch: int, shuffle: bool
) -> list[list[list[Interval]]]:
    """Give every good sample of an epoch to exactly one reader.

    The shards, with `counts` good samples each, are laid end to end, with `shuffle` in an order drawn from (seed,
    epoch), and the line is cut into one piece for each reader: shards are read in sequence, and shared where there are
    more readers than shards. Every rank has W workers (0 counts as 1) and full batches of `batch_size`.

    Returns:
        `plan[rank][worker]`, the intervals to read one after the other. Worker w serves batches w, w + W, ...
    """
    workers = max(workers, 1)
    order = list(range(len(counts)))
    if shuffle:
        random.Random(stable_hash("shards", seed, epoch)).shuffle(order)
    line = [Interval(shard, 0, counts[shard]) for shard in reversed(order) if counts[shard]]
    sizes = batch_sizes(sum(counts), ranks, batch_size)
    return [[_take(line, sum(sizes[rank][worker::workers])) for worker in range(workers)] for rank in range(ranks)]


def _take(line: list[Interval], samples: int) -> list[Interval]:
    """Take the next samples off a line, whose head is its last item."""
    taken = []
    while samples:
        head = line.pop()
        stop = min(head.stop, head.start + samples)
        taken.append(Interval(head.shard, head.start, stop))
        samples -= stop - head.start
        if stop < head.stop:
            line.append(Interval(head.shard, stop, head.stop))
    return taken


def _shares(total: int, parts: int) -> list[int]:
    return [total // parts + (part < total % parts) for part in range(parts)]
