import itertools
import random

import pytest

from cmd_lightning.data.plan import assign, batch_sizes, stable_hash
from cmd_lightning.errors import InputError


@pytest.mark.parametrize("ranks", [1, 2, 3, 8])
@pytest.mark.parametrize("batch_size", [1, 2, 3, 8])
def test_batches_are_equal_in_number_and_use_every_sample(ranks, batch_size):
    for samples in range(ranks, 12 * ranks + 5):
        sizes = batch_sizes(samples, ranks, batch_size)
        assert len({len(rank) for rank in sizes}) == 1
        assert sum(map(sum, sizes)) == samples
        assert min(map(min, sizes)) >= 1
        steps = len(sizes[0])
        assert all(size == batch_size for rank in sizes for size in rank[: max(steps - 2, 0)])
        if batch_size > 1:
            assert max(map(max, sizes)) <= batch_size
            assert steps == -(-samples // (ranks * batch_size))
        else:
            assert max(map(max, sizes)) <= 2
            assert steps == samples // ranks


def test_fewer_samples_than_ranks_are_an_error():
    with pytest.raises(InputError, match="3 samples for 4 ranks"):
        batch_sizes(3, 4, 2)


@pytest.mark.parametrize(("ranks", "workers", "shards"), list(itertools.product([1, 2, 3], [0, 1, 2, 5], range(1, 6))))
def test_every_sample_has_one_reader(ranks, workers, shards):
    chance = random.Random(shards)
    for trial in range(20):
        counts = [chance.choice([0, 1, 2, 5, 13, 40]) for _ in range(shards)]
        counts[0] = max(counts[0], ranks)
        options = {"ranks": ranks, "workers": workers, "batch_size": chance.randint(1, 6), "seed": 3, "epoch": trial}
        plan = assign(counts, **options, shuffle=True)
        assert plan == assign(counts, **options, shuffle=True)
        seen = [
            (interval.shard, ordinal)
            for rank in plan
            for reader in rank
            for interval in reader
            for ordinal in range(interval.start, interval.stop)
        ]
        assert sorted(seen) == [(shard, i) for shard, count in enumerate(counts) for i in range(count)]
        sizes = batch_sizes(sum(counts), ranks, options["batch_size"])
        for rank, readers in enumerate(plan):
            for worker, reader in enumerate(readers):
                needed = sum(sizes[rank][worker :: max(workers, 1)])
                assert sum(interval.stop - interval.start for interval in reader) == needed


def test_shards_are_permuted_by_seed_and_epoch():
    def order(seed, epoch, shuffle=True):
        plan = assign([1] * 20, ranks=1, workers=0, batch_size=4, seed=seed, epoch=epoch, shuffle=shuffle)
        return [interval.shard for interval in plan[0][0]]

    assert order(0, 0) == order(0, 0)
    assert len({tuple(order(seed, epoch)) for seed in range(3) for epoch in range(3)}) == 9
    assert order(5, 5, shuffle=False) == list(range(20))


def test_stable_hash_is_the_same_everywhere():
    assert stable_hash("clip", 0, 1, "0001") == 6293882072645082501
    assert stable_hash("a", "b") != stable_hash("ab")
