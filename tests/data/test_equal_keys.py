"""Shards whose samples have the same keys, as those that were packed one by one."""

import tarfile

import pytest
import torch
from shard_files import sample, write_tar

from cmd_lightning.components import MotionDiffusion
from cmd_lightning.data.index import shard_names
from cmd_lightning.data.webvid import WebVidDataModule
from cmd_lightning.errors import InputError
from cmd_lightning.evaluation.sources import Selection, open_source
from cmd_lightning.video_io import read_video
from cmd_lightning.zoo.motion.dit import MotionDiT

SHAPE = (3, 4, 16, 16)


@pytest.fixture(params=["two names", "two folders"])
def shards(tmp_path, request):
    """Two shards of three samples each with the same keys and other clips."""
    paths = {"two names": ["0.tar", "1.tar"], "two folders": ["a/0.tar", "b/0.tar"]}[request.param]
    for number, path in enumerate(paths):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        write_tar(tmp_path / path, [sample(f"{i:04d}", 10 * number + i, frames=4) for i in range(3)])
    return [str(tmp_path / path) for path in paths]


def data(shards, **options):
    return WebVidDataModule(shards, None, shards, num_frames=4, size=16, batch_size=2, **options)


def clips(module, epochs=1):
    """The clips of the training batches by key."""
    found = [{} for _ in range(epochs)]
    for seen in found:
        for batch in module.train_dataloader():
            seen |= dict(zip(batch["key"], batch["video"], strict=True))
    return found


def test_keys_are_unique_and_stay(shards):
    first, second = clips(data(shards), epochs=2)
    assert len(first) == 6
    assert first.keys() == second.keys() == {f"{name}/{i:04d}" for name in shard_names(shards) for i in range(3)}
    assert all(torch.equal(first[key], second[key]) for key in first)
    [later] = clips(data(shards, num_workers=2, seed=3))
    assert all(torch.equal(first[key], later[key]) for key in first)


def test_cached_latents_and_noise_are_each_clips_own(shards, tiny_autoencoder):
    component = MotionDiffusion(
        lambda spec, dim: MotionDiT(spec, dim, width=16, depth=1, heads=2),
        tiny_autoencoder(),
        video_shape=SHAPE,
        cache_latents=True,
    )
    noise = {}
    for _ in range(2):
        for batch in data(shards).train_dataloader():
            exact, used = component.clean_latents(batch), component.training_latents(batch)
            for one, other in zip(exact, used, strict=True):
                torch.testing.assert_close(one, other, atol=5e-3, rtol=5e-3)
            drawn = component.normal(batch, "noise")((50,))
            noise |= dict(zip(batch["key"], drawn, strict=True))
    assert len({tuple(values.tolist()) for values in noise.values()}) == 6


def test_evaluation_reads_each(tmp_path):
    for shard in range(2):
        write_tar(tmp_path / f"{shard}.tar", [sample(f"{i:04d}", 10 * shard + i, frames=4) for i in range(3)])
    source = open_source(str(tmp_path), Selection(frames=4))
    assert source.keys == [f"{shard}/{i:04d}" for shard in range(2) for i in range(3)]
    for number, key in enumerate(source.keys):
        shard, _, name = key.partition("/")
        assert torch.equal(source[number]["video"], read_member(tmp_path / f"{shard}.tar", f"{name}.mp4"))


def read_member(path, name):
    with tarfile.open(path) as tar:
        return read_video(tar.extractfile(name).read())


def test_a_size_beyond_all_bounds_is_rejected_at_once():
    for size in (100_000, [8192, 8193], [1, 2**27]):
        with pytest.raises(InputError, match=r"size .*: frames have at most 67108864 pixels, 8192x8192"):
            WebVidDataModule(size=size)
