"""Which reader reads which samples, and the seeds of random choices: pure functions, the same on all ranks."""

import hashlib
import random
from collections.abc import Sequence
from typing import NamedTuple

from cmd_lightning.errors import InputError


class Interval(NamedTuple):
    """Good samples `start` to `stop` (exclusive) of a shard, counted from 0 in the order of the file."""

    shard: int
    start: int
    stop: int
    again: int = 0  # how often its data set has begun again within the epoch


class Part(NamedTuple):
    """A data set among those of an epoch: its shards, and how many samples of it an epoch takes."""

    shards: range
    samples: int


def stable_hash(*parts: object) -> int:
    """A 63-bit number that depends on nothing but the parts: the same in every process, on every machine."""
    digest = hashlib.blake2b("\x1f".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def clip_draw(seed: int, epoch: int, key: str, instead_of: str = "") -> int:
    """The seed of a clip's start and crop; `instead_of` is the key of a bad sample that the clip replaces."""
    return stable_hash("clip", seed, epoch, key, instead_of)


def batch_sizes(samples: int, ranks: int, batch_size: int) -> list[list[int]]:
    """Cut an epoch into batches: as many on every rank, none empty, every sample in exactly one.

    All batches are full but those of the last step, which share what is left. Where that would be fewer
    samples than ranks, the last two steps share. With batches of one even that is not enough: then the
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


def portions(counts: Sequence[int], weights: Sequence[float]) -> list[int]:
    """Samples of each data set in an epoch of several, in the proportion of their weights.

    Of the one that is largest for its weight, an epoch takes every sample once; of the others more than they have.
    """
    size, weight = max(zip(counts, weights, strict=True), key=lambda one: one[0] / one[1])
    return [max(1, round(size * own / weight)) for own in weights]


def assign(
    counts: Sequence[int],
    *,
    ranks: int,
    workers: int,
    batch_size: int,
    seed: int,
    epoch: int,
    shuffle: bool,
    parts: Sequence[Part] = (),
) -> list[list[list[Interval]]]:
    """Give every good sample of an epoch to exactly one reader.

    The shards, with `counts` good samples each, are put in a line, with `shuffle` in a random order seeded by (seed,
    epoch), and the line is cut into one piece for each reader: shards are read in sequence, and shared where there are
    more readers than shards. Every rank has W workers (0 counts as 1) and full batches of `batch_size`.

    With `parts` there is a line for each data set, and every reader gets the same proportion of each. A line does not
    end: after its last shard the data set begins again, in another order, and an epoch continues where the one before
    it stopped. So over the epochs each sample of a data set is read equally often.

    Returns:
        `plan[rank][worker]`, the intervals to read, of one data set after the other. Worker w serves batches w,
        w + W, ...
    """
    workers = max(workers, 1)
    parts = parts or [Part(range(len(counts)), sum(counts))]
    left = [part.samples for part in parts]
    sizes = batch_sizes(sum(left), ranks, batch_size)
    lines = [_line(counts, part, seed, epoch, shuffle) for part in parts]
    plan: list[list[list[Interval]]] = []
    for rank in range(ranks):
        plan.append([])
        for worker in range(workers):
            shares = _in_proportion(sum(sizes[rank][worker::workers]), left)
            left = [before - share for before, share in zip(left, shares, strict=True)]
            plan[rank].append([one for line, share in zip(lines, shares, strict=True) for one in _take(line, share)])
    return plan


def _line(counts: Sequence[int], part: Part, seed: int, epoch: int, shuffle: bool) -> list[Interval]:
    """What an epoch takes of a data set, and the rest of its last round; the head is the last item."""
    size = sum(counts[shard] for shard in part.shards)
    first, skipped = divmod(epoch * part.samples, size)
    line: list[Interval] = []
    for again in range(-(-(skipped + part.samples) // size)):
        order = list(part.shards)
        if shuffle:
            random.Random(stable_hash("shards", seed, first + again)).shuffle(order)
        line += [Interval(shard, 0, counts[shard], again) for shard in order if counts[shard]]
    line.reverse()
    _take(line, skipped)
    return line


def _take(line: list[Interval], samples: int) -> list[Interval]:
    """Take the next samples off a line, whose head is its last item."""
    taken = []
    while samples:
        head = line.pop()
        stop = min(head.stop, head.start + samples)
        taken.append(head._replace(stop=stop))
        samples -= stop - head.start
        if stop < head.stop:
            line.append(head._replace(start=stop))
    return taken


def _in_proportion(total: int, left: Sequence[int]) -> list[int]:
    """Cut a total into whole shares in proportion to what is left of each; none is more than that."""
    whole = max(sum(left), 1)
    shares = [total * one // whole for one in left]
    largest = sorted(range(len(left)), key=lambda index: -(total * left[index] % whole))
    for index in largest[: total - sum(shares)]:
        shares[index] += 1
    return shares


def _shares(total: int, parts: int) -> list[int]:
    return [total // parts + (part < total % parts) for part in range(parts)]
