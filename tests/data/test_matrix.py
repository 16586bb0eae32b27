"""Every sample exactly once, on any number of ranks, loader workers and shards, also when training is interrupted."""

import itertools
import json
import random
import types
from collections import Counter
from pathlib import Path

import pytest
import torch
from http_server import Server
from shard_files import plain, sample, serve_folder, write_tar

from cmd_lightning.data.index import Shard, expand, load_index
from cmd_lightning.data.plan import assign, batch_sizes
from cmd_lightning.data.stream import ShardStream

MATRIX = list(itertools.product((1, 2, 3), (0, 1, 2, 3, 4), range(1, 10)))


def shard_sizes(shards, trial):
    """Uneven numbers of samples, some 0 or 1, and at least three in all."""
    chance = random.Random(f"{shards} {trial}")
    sizes = [chance.choice([0, 1, 1, 2, 5, 11]) for _ in range(shards)]
    sizes[chance.randrange(shards)] += 3
    return sizes


@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_the_plan_gives_every_sample_to_one_reader(batch_size):
    for (ranks, workers, shards), trial in itertools.product(MATRIX, range(5)):
        case = f"{ranks} ranks, {workers} workers, {shards} shards, trial {trial}"
        counts = shard_sizes(shards, trial)
        plan = assign(counts, ranks=ranks, workers=workers, batch_size=batch_size, seed=1, epoch=trial, shuffle=True)
        given = Counter(
            (interval.shard, number)
            for readers in plan
            for intervals in readers
            for interval in intervals
            for number in range(interval.start, interval.stop)
        )
        assert given == {(shard, number): 1 for shard, count in enumerate(counts) for number in range(count)}, case
        assert [len(readers) for readers in plan] == [max(workers, 1)] * ranks, case
        sizes = batch_sizes(sum(counts), ranks, batch_size)
        assert len({len(rank) for rank in sizes}) == 1, case  # as many batches on every rank
        assert all(size > 0 for rank in sizes for size in rank), case
        for rank, readers in enumerate(plan):
            asked = [0] * len(readers)
            for batch, size in enumerate(sizes[rank]):
                asked[batch % len(readers)] += size
            assert [sum(i.stop - i.start for i in reader) for reader in readers] == asked, case


def passes(streams, workers, monkeypatch):
    """The keys of each batch by rank, as a DataLoader's workers would bring them one after the other."""
    ranks = []
    for stream in streams:
        readers = []
        for worker in range(max(workers, 1)):
            info = types.SimpleNamespace(id=worker, num_workers=workers) if workers else None
            monkeypatch.setattr("cmd_lightning.data.loader.get_worker_info", lambda info=info: info)
            readers.append([batch["key"] for batch in stream])
        turns = itertools.zip_longest(*readers)
        ranks.append([keys for turn in turns for keys in turn if keys is not None])
    return ranks


def test_streams_read_every_sample_once_and_resume_at_any_batch(tmp_path, monkeypatch):
    shards = []
    for number, samples in enumerate((5, 0, 3, 1, 8, 1, 0, 2, 4)):
        keys = [f"{number}-{i}" for i in range(samples)]
        write_tar(tmp_path / f"{number}.tar", [{f"{key}.mp4": b"not decoded"} for key in keys])
        shards.append((Shard(str(tmp_path / f"{number}.tar"), samples), keys))
    clip = {"video": torch.zeros(1), "caption": "", "label": 0, "fps": 1.0}
    monkeypatch.setattr(ShardStream, "decode", lambda self, sample, *_: clip | {"key": sample.key})
    for case, (ranks, workers, count) in enumerate(MATRIX):
        options = {"batch_size": 1 + case % 3, "ranks": ranks, "shuffle": True, "shuffle_buffer": 2, "seed": case}
        chosen = [shard for shard, _ in shards[:count]]
        streams = [ShardStream(chosen, None, rank=rank, **options) for rank in range(ranks)]
        whole = passes(streams, workers, monkeypatch)
        assert len({len(batches) for batches in whole}) == 1, MATRIX[case]
        assert all(batches and all(batches) for batches in whole), MATRIX[case]
        seen = Counter(key for batches in whole for keys in batches for key in plain(keys))
        assert seen == {key: 1 for _, keys in shards[:count] for key in keys}, MATRIX[case]
        for first in range(1, len(whole[0]), 1 + case % 4):
            for stream in streams:
                stream.begin(0, first)
            rest = passes(streams, workers, monkeypatch)
            assert rest == [batches[first:] for batches in whole], (MATRIX[case], first)


FITS = """
import json, sys
import lightning
import torch
from cmd_lightning.callbacks import LastCheckpoint
from cmd_lightning.data.webvid import WebVidDataModule

class Reader(lightning.LightningModule):
    def __init__(self, path):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.path = path

    def training_step(self, batch, batch_idx):
        with open(f"{self.path}-{self.trainer.global_rank}.jsonl", "a") as file:
            file.write(json.dumps([self.trainer.current_epoch, batch["key"]]) + "\\n")
        return self.layer(batch["video"].float().mean().view(1)).square().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.0)

def fit(shards, workers, path, **options):
    data = WebVidDataModule(shards, num_frames=4, size=16, batch_size=2, num_workers=workers, shuffle_buffer=3)
    checkpoint = options.pop("ckpt_path", None)
    trainer = lightning.Trainer(accelerator="cpu", devices=ranks, strategy="ddp" if ranks > 1 else "auto",
                                logger=False, enable_progress_bar=False, enable_model_summary=False,
                                callbacks=[LastCheckpoint(path)], **options)
    trainer.fit(Reader(path), datamodule=data, ckpt_path=checkpoint)

if __name__ == "__main__":
    torch.set_num_threads(1)
    ranks, cases = int(sys.argv[1]), json.loads(sys.argv[2])
    for shards, workers, stop, end, path in cases:
        fit(shards, workers, path + "/whole", max_steps=end)
        fit(shards, workers, path + "/parts", max_steps=stop)
        fit(shards, workers, path + "/parts", max_steps=end, ckpt_path=path + "/parts/last.ckpt")
"""
SAMPLES = (4, 1, 3, 0, 2, 5, 1, 2, 3)


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """Nine shards with an index, some nearly empty; by path and by address."""
    folder = tmp_path_factory.mktemp("served")
    keys = []
    for shard, samples in enumerate(SAMPLES):
        keys.append([f"{shard}-{i}" for i in range(samples)])
        write_tar(folder / f"{shard}.tar", [sample(key) for key in keys[-1]])
    load_index(expand(str(folder)), write=True)
    with Server(serve_folder(folder)) as server:
        yield str(folder), server.url, keys


@pytest.mark.parametrize(
    ("ranks", "cases"),
    [
        (1, [(0, 1, "file"), (4, 3, "http")]),
        pytest.param(2, [(2, 3, "http"), (3, 9, "file")], marks=pytest.mark.slow),
        pytest.param(3, [(1, 3, "file"), (4, 7, "http")], marks=pytest.mark.slow),
    ],
)
def test_fits_see_every_sample_once_also_stopped_and_resumed(python, served, tmp_path, ranks, cases):
    folder, address, keys = served
    asked, expected = [], []
    for workers, shards, kind in cases:
        urls = [f"{folder if kind == 'file' else address}/{number}.tar" for number in range(shards)]
        expected.append(sorted(key for held in keys[:shards] for key in held))
        steps = -(-len(expected[-1]) // (2 * ranks))  # of an epoch: batches of two, on every rank
        path = tmp_path / str(len(asked))
        for part in ("whole", "parts"):
            (path / part).mkdir(parents=True)
        asked.append((urls, workers, steps // 2, 2 * steps, str(path)))
    script = tmp_path / "fits.py"
    script.write_text(FITS)
    done = python.run(script, ranks, json.dumps(asked))
    assert done.returncode == 0, done.stderr[-3000:]
    for (*_, end, path), once in zip(asked, expected, strict=True):
        seen = {}
        for part in ("whole", "parts"):
            files = [Path(f"{path}/{part}-{rank}.jsonl") for rank in range(ranks)]
            seen[part] = [[json.loads(line)[1] for line in file.read_text().splitlines()] for file in files]
        assert seen["parts"] == seen["whole"]
        assert {len(batches) for batches in seen["whole"]} == {end}
        for epoch in (slice(end // 2), slice(end // 2, None)):
            assert sorted(key for rank in seen["whole"] for batch in rank[epoch] for key in plain(batch)) == once
