"""Data sets with weights: exact, even over the epochs, resumable."""

import itertools
import json
import random
import re
from collections import Counter

import jsonargparse
import pytest
import torch
from shard_files import sample, write_tar

from cmd_lightning.commands.config_errors import explain
from cmd_lightning.data.index import Shard
from cmd_lightning.data.plan import Part, assign, batch_sizes, portions
from cmd_lightning.data.stream import ShardStream
from cmd_lightning.data.webvid import WebVidDataModule
from cmd_lightning.errors import InputError


def test_the_largest_for_its_weight_comes_once_and_the_others_in_proportion():
    assert portions([100, 100], [1, 1]) == [100, 100]
    assert portions([100, 10], [1, 1]) == [100, 100]
    assert portions([700, 100], [0.7, 0.3]) == [700, 300]
    assert portions([10, 1000, 3], [0.5, 0.25, 0.25]) == [2000, 1000, 1000]


@pytest.mark.parametrize(("ranks", "workers"), list(itertools.product([1, 2, 3], [0, 1, 3])))
def test_over_the_epochs_each_sample_of_a_set_comes_equally_often(ranks, workers):
    chance = random.Random(f"{ranks} {workers}")
    for trial in range(20):
        counts = [chance.choice([0, 1, 2, 5, 13]) for _ in range(6)]
        sets = [range(0, 2), range(2, 5), range(5, 6)]
        for shards in sets:
            counts[shards[0]] += 1
        sizes = [sum(counts[shard] for shard in shards) for shards in sets]
        parts = [Part(*one) for one in zip(sets, portions(sizes, [chance.random() + 0.05 for _ in sets]), strict=True)]
        options = {
            "ranks": ranks,
            "workers": workers,
            "batch_size": chance.randint(1, 4),
            "seed": trial,
            "parts": parts,
        }
        overall = Counter()
        for epoch in range(4):
            plan = assign(counts, **options, epoch=epoch, shuffle=True)
            batches = batch_sizes(sum(part.samples for part in parts), ranks, options["batch_size"])
            seen = Counter()
            for rank, readers in enumerate(plan):
                for worker, reader in enumerate(readers):
                    taken = [one.stop - one.start for one in reader]
                    assert sum(taken) == sum(batches[rank][worker :: max(workers, 1)])
                    for part in parts:  # every reader reads the proportion, to within a sample
                        own = sum(n for n, one in zip(taken, reader, strict=True) if one.shard in part.shards)
                        assert (
                            abs(own - sum(taken) * part.samples / sum(p.samples for p in parts))
                            < len(readers) * ranks + 1
                        )
                    seen.update((one.shard, i, one.again) for one in reader for i in range(one.start, one.stop))
            assert set(seen.values()) == {1}
            assert [sum(shard in part.shards for shard, *_ in seen) for part in parts] == [
                part.samples for part in parts
            ]
            overall.update((shard, i) for shard, i, _ in seen)
        for shards in sets:
            times = [overall[shard, i] for shard in shards for i in range(counts[shard])]
            assert max(times) - min(times) <= 1
        assert min(overall.values()) >= 4  # none is left out of an epoch


@pytest.fixture
def sets(tmp_path):
    """Twelve and three samples."""
    for name, counts in {"a": (7, 5), "b": (3,)}.items():
        (tmp_path / name).mkdir()
        for shard, count in enumerate(counts):
            write_tar(tmp_path / name / f"{name}{shard}.tar", [sample(f"{i}", 10 * shard + i) for i in range(count)])
    return {f"{tmp_path}/a": 2.0, f"{tmp_path}/b": 1.0}


def module(sets, **options):
    return WebVidDataModule(sets, num_frames=4, size=16, batch_size=3, shuffle_buffer=2, **options)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_has_the_proportion_and_mixes(sets, workers):
    data = module(sets, num_workers=workers)
    loader = data.train_dataloader()
    epochs = [[batch["key"] for batch in loader] for _ in range(3)]
    assert len(loader) == 6
    assert epochs[0] != epochs[1]
    for keys in epochs:
        seen = Counter(key for batch in keys for key in batch)
        assert set(seen.values()) == {1}  # a repeated sample has a separate key
        assert Counter(key[0] for key in seen) == {"a": 12, "b": 6}
        assert Counter(key.partition("@")[0] for key in seen if key[0] == "b") == dict.fromkeys(
            ("b0/0", "b0/1", "b0/2"), 2
        )
    mixed = [sum(key[0] == "b" for key in batch) for keys in epochs for batch in keys]
    assert mixed.count(0) < 12


@pytest.mark.parametrize("workers", [0, 2])
def test_repeated_samples_start_elsewhere_and_a_resume_gives_the_rest(sets, workers):
    whole = list(module(sets, num_workers=workers).train_dataloader())
    clips = {key: batch["video"][i] for batch in whole for i, key in enumerate(batch["key"])}
    repeated = [key for key in clips if "@" in key]
    assert len(repeated) == 3
    assert any(not torch.equal(clips[key], clips[key.partition("@")[0]]) for key in repeated)
    stopped, resumed = module(sets, num_workers=workers), module(sets, num_workers=workers)
    loader = iter(stopped.train_dataloader())
    for _ in range(4):
        next(loader)
    resumed.load_state_dict(json.loads(json.dumps(stopped.state_dict())))
    rest = list(resumed.train_dataloader())
    assert [batch["key"] for batch in rest] == [batch["key"] for batch in whole[4:]]
    assert all(torch.equal(one["video"], other["video"]) for one, other in zip(rest, whole[4:], strict=True))


def test_other_weights_are_other_data(sets):
    stopped, resumed = module(sets), module(dict.fromkeys(sets, 1.0))
    loader = iter(stopped.train_dataloader())
    next(loader)
    resumed.load_state_dict(stopped.state_dict())
    with pytest.warns(UserWarning, match="1 batches into epoch 0 of other data"):
        assert len(list(resumed.train_dataloader())) == 8


def test_one_set_with_a_weight_is_that_set(sets, tmp_path):
    one = [batch["key"] for batch in module({**sets, f"{tmp_path}/b": 0}).train_dataloader()]
    assert one == [batch["key"] for batch in module(f"{tmp_path}/a").train_dataloader()]


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ((0, 0), r"train_shards {.*}: the weights sum to zero"),
        ((1, -1), r"train_shards .*/b: the weight -1 must be 0 or a number from 1e-06 to 1e\+06"),
        ((float("nan"), 1), r"train_shards .*/a: the weight nan must be"),
        ((1, float("inf")), r"train_shards .*/b: the weight inf must be"),
        ((1e300, 1), r"train_shards .*/a: the weight 1e\+300 must be"),
        ((1, 1e-300), r"train_shards .*/b: the weight 1e-300 must be"),
        (("half", 1), r"train_shards .*/a: the weight half must be"),
    ],
)
def test_weights_are_checked(sets, weights, words):
    with pytest.raises(InputError, match=words) as error:
        module(dict(zip(sets, weights, strict=True)))
    assert "\n" not in str(error.value)


def test_an_epoch_of_endless_repeats_is_an_error_and_not_planned(sets, tmp_path):
    with pytest.raises(
        InputError, match=r"train_shards .*/a: an epoch would repeat it 250000000000 times; lower"
    ) as error:
        module({f"{tmp_path}/a": 1e6, f"{tmp_path}/b": 1e-6}).train_dataloader()
    assert "\n" not in str(error.value)
    assert len(module({f"{tmp_path}/a": 1e4, f"{tmp_path}/b": 1}).stream("train")) == 10_001


@pytest.mark.parametrize("given", [[{"shards": "a", "weight": 1}, {"shards": "b", "weight": 2}], ["a", {"b": 2}]])
def test_a_list_of_sets_is_answered_with_the_right_spelling(given):
    right = r"mapping, (train_shards: )?\{webvid/train: 0.7, openvid/train: 0.3\}$"
    with pytest.raises(InputError, match=rf"^train_shards \[.*\]: .* {right}") as error:
        module(given)
    assert "\n" not in str(error.value)
    with pytest.raises(InputError, match=r"^val_shards \{'a': 1\}: only train_shards has weights"):
        WebVidDataModule(val_shards={"a": 1})
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(WebVidDataModule, "data")
    with pytest.raises(jsonargparse.ArgumentError) as refused:
        parser.parse_args(["--data=WebVidDataModule", f"--data.train_shards={json.dumps(given)}"])
    told = explain(str(refused.value), [WebVidDataModule])
    assert told.startswith(f"data.train_shards {given}: expected ")
    assert re.search(right, told)


def test_a_set_without_clips_is_named(sets, tmp_path):
    with pytest.raises(InputError, match=r"train_shards .*/none: no such"):
        module(sets | {f"{tmp_path}/none": 1}).train_dataloader()
    write_tar(tmp_path / "empty.tar", [{"README": b"x"}])
    with pytest.raises(InputError, match=r"train_shards .*/empty\.tar: no usable clip"):
        module(sets | {f"{tmp_path}/empty.tar": 1}).train_dataloader()


def test_sets_of_remote_shards_are_read_side_by_side(tmp_path):
    """Each has its own shard ahead: the plan of a reader holds the intervals of one set after the other."""
    shards = []
    for number, count in enumerate((4, 3, 5)):
        write_tar(tmp_path / f"{number}.tar", [{f"{i}.mp4": b"x"} for i in range(count)])
        shards.append(Shard(str(tmp_path / f"{number}.tar"), count))
    parts = [Part(range(0, 2), 7), Part(range(2, 3), 7)]
    stream = ShardStream(shards, None, batch_size=2, shuffle=True, parts=parts)
    keys = [one.key for one in stream.tar_samples(stream.planned_shards())]
    assert len(set(keys)) == len(keys) == 14
    turns = sum(one[0] != other[0] and "2" in (one[0], other[0]) for one, other in itertools.pairwise(keys))
    assert turns > 3
