"""Latent shards: what a sample becomes in each epoch, the streams' promises, and damage of every kind."""

import json
import struct
import warnings
from collections import Counter

import lightning
import pytest
import torch
from http_server import Server
from lightning.pytorch.callbacks import ModelCheckpoint
from safetensors.torch import save
from shard_files import latent_sample, plain, sample, serve_folder, write_tar

from cmd_lightning.data.cache import ShardCache
from cmd_lightning.data.check import check_shards
from cmd_lightning.data.clips import BadSample
from cmd_lightning.data.index import read_index
from cmd_lightning.data.latent_clips import load_latents
from cmd_lightning.data.latents import LatentDataModule
from cmd_lightning.data.webvid import WebVidDataModule
from cmd_lightning.errors import InputError

ENCODER = "0123456789abcdef"


@pytest.fixture(scope="module")
def latents(tmp_path_factory):
    """Three shards of 4, 7 and 2 samples of three clips each."""
    folder = tmp_path_factory.mktemp("latents")
    number = 0
    for shard, count in enumerate((4, 7, 2)):
        write_tar(folder / f"{shard}.tar", [latent_sample(f"{number + i:04d}", number + i) for i in range(count)])
        number += count
    return folder


def module(shards, **options):
    return LatentDataModule(str(shards), str(shards), str(shards), **{"batch_size": 3, "shuffle_buffer": 5} | options)


def load(members, epoch=0):
    return load_latents({name.partition(".")[2]: data for name, data in members.items()} | {"__key__": "a"}, 0, epoch)


def test_batches(latents):
    data = module(latents)
    batch = next(iter(data.val_dataloader()))
    assert plain(batch["key"]) == ["0000", "0001", "0002"]
    assert batch["caption"] == ["clip 0", "clip 1", "clip 2"]
    assert batch["label"].tolist() == [0, 1, 2]
    assert batch["fps"].tolist() == [7.5] * 3
    assert batch["made_by"] == [{"latent_space": "pixels", "autoencoder": "ab"}] * 3
    assert batch["epoch"] == 0
    assert batch["content"].dtype == batch["motion"].dtype == torch.float16
    assert torch.equal(batch["content"], torch.arange(3.0).half().view(3, 1, 1, 1).expand(3, 4, 2, 3))
    assert torch.equal(batch["motion"], torch.arange(3.0).half().view(3, 1, 1, 1).expand(3, 2, 5, 6))
    text = batch["text"][ENCODER]
    assert torch.equal(text["pooled"], torch.arange(3.0).half().view(3, 1).expand(3, 7))
    assert torch.equal(text["tokens"], torch.arange(3.0).half().view(3, 1, 1).expand(3, 4, 7))
    assert text["mask"].tolist() == [[True, True, False, False]] * 3
    assert "video" not in batch


def test_each_epoch_takes_the_next_clip_and_begins_again_after_the_last(latents):
    data = module(latents, num_workers=1)
    for epoch in range(5):
        seen = {}
        for batch in data.train_dataloader():
            assert batch["epoch"] == epoch
            seen |= dict(zip(plain(batch["key"]), batch["content"][:, 0, 0, 0].tolist(), strict=True))
        assert len(seen) == 13
        for key, value in seen.items():
            assert value == pytest.approx(int(key) + (epoch % 3) / 10, abs=0.01)


def test_moments(tmp_path):
    moments = torch.randn(2, 8, 3, 4, 5)
    one = latent_sample("a", moments=moments, content=None, motion=None)
    write_tar(tmp_path / "0.tar", [one])
    for _ in range(2):
        batch = next(iter(module(tmp_path).train_dataloader()))
        assert {"content", "motion"}.isdisjoint(batch)
        assert torch.equal(batch["moments"], moments[:1])
    assert torch.equal(load(one, epoch=5)["moments"], moments[1])


class Model(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.seen = []

    def training_step(self, batch, batch_idx):
        self.seen.append((batch["epoch"], plain(batch["key"]), batch["motion"][:, 0, 0, 0].tolist()))
        return self.layer(batch["content"].float().mean((1, 2, 3))[:, None]).square().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 1e-3)


@pytest.mark.parametrize("workers", [0, 2])
def test_training_resumes_at_the_next_batch_of_the_same_epoch(latents, tmp_path, workers):
    def fit(checkpoint=None, **options):
        torch.manual_seed(0)
        model = Model()
        quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
        trainer = lightning.Trainer(max_epochs=3, **quiet, **{"enable_checkpointing": False} | options)
        trainer.fit(model, datamodule=module(latents, num_workers=workers), ckpt_path=checkpoint)
        return model

    saving = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=1, save_top_k=-1)
    whole = fit(callbacks=[saving], enable_checkpointing=True)
    assert len(whole.seen) == 15
    for epoch in range(3):
        keys = Counter(key for held, batch, _ in whole.seen if held == epoch for key in batch)
        assert keys == {f"{i:04d}": 1 for i in range(13)}
    for step in (2, 5, 8):
        rest = fit(tmp_path / f"step={step}.ckpt")
        assert rest.seen == whole.seen[step:]
        assert torch.equal(rest.layer.weight, whole.layer.weight)


def test_shards_at_addresses(latents, tmp_path):
    list(module(latents).val_dataloader())  # writes the index
    with Server(serve_folder(latents)) as server:
        remote = ShardCache(folder=str(tmp_path / "cache"))
        far = list(module(f"{server.url}/{{0..2}}.tar", remote=remote).val_dataloader())
    near = list(module(latents).val_dataloader())
    assert [batch["key"] for batch in far] == [batch["key"] for batch in near]
    assert all(torch.equal(one["content"], two["content"]) for one, two in zip(far, near, strict=True))


def raw(header, body=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def claim(**entry):
    return raw({"moments": {"dtype": "F32", "shape": [1, 1, 1, 1, 2], "data_offsets": [0, 8]} | entry}, b"12345678")


WHOLE = latent_sample("a")["a.safetensors"]
HOSTILE = {
    "nothing": b"",
    "cut": WHOLE[:-1],
    "cut in the header": WHOLE[:40],
    "longer": WHOLE + b"x",
    "a pickle": b"\x80\x04\x95" + bytes(40),
    "header of absurd size": struct.pack("<Q", 2**62) + b"{}",
    "negative header": b"\xff" * 8 + b"{}",
    "shape that overflows": claim(shape=[2**40, 2**40]),
    "nothing of absurd shape": raw({"moments": {"dtype": "F32", "shape": [0, 2**62, 9], "data_offsets": [0, 0]}}),
    "shape beyond its bytes": claim(shape=[1, 1, 1, 1, 2**30]),
    "bytes beyond the file": claim(data_offsets=[0, 2**40]),
    "unknown type": claim(dtype="F4", shape=[1, 1, 1, 1, 16]),
    "no type": claim(dtype="object"),
    "nested": raw(b'{"__metadata__":' + b'{"a":' * 9000),
    "thousands of tensors": raw({f"{i}": {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]} for i in range(2000)}),
}
MISSHAPEN = {
    "whole numbers": claim(dtype="I32"),
    "small floats": claim(dtype="F8_E4M3", shape=[1, 1, 1, 1, 8]),
    "an axis less": claim(shape=[1, 1, 1, 2]),
    "no clip": save({"moments": torch.zeros(0, 1, 1, 1, 1)}),
    "no scalar": save({"moments": torch.tensor(1.0)}),
    "mask of numbers": latent_sample("a", **{f"text.{ENCODER}.mask": torch.ones(4)})["a.safetensors"],
    "tokens flat": latent_sample("a", **{f"text.{ENCODER}.tokens": torch.ones(4)})["a.safetensors"],
}
INCOMPLETE = {
    "other tensors": save({"weights": torch.zeros(3)}),
    "content alone": latent_sample("a", motion=None)["a.safetensors"],
    "text without its vector": latent_sample("a", **{f"text.{ENCODER}.pooled": None})["a.safetensors"],
    "more content than motion": latent_sample("a", content=torch.zeros(4, 4, 2, 3))["a.safetensors"],
}
DAMAGED = (
    [("unreadable latents", name, data) for name, data in HOSTILE.items()]
    + [("misshapen latents", name, data) for name, data in MISSHAPEN.items()]
    + [("incomplete latents", name, data) for name, data in INCOMPLETE.items()]
)


@pytest.mark.parametrize(("why", "data"), [(why, data) for why, _, data in DAMAGED], ids=[n for _, n, _ in DAMAGED])
def test_damaged_and_hostile_latents_are_bad_samples(why, data):
    with pytest.raises(BadSample, match=f"^{why}$"):
        load(latent_sample("a") | {"a.safetensors": data})


@pytest.mark.parametrize(
    "facts",
    [
        {},
        {"fps": 8},
        {"fps": 8, "made_by": "me"},
        {"fps": 8, "made_by": {"latent_space": 3, "autoencoder": None}},
        {"fps": 8, "made_by": {"latent_space": "a", "autoencoder": 3}},
        {"fps": 0, "made_by": {"latent_space": "a", "autoencoder": None}},
        {"fps": True, "made_by": {"latent_space": "a", "autoencoder": None}},
        {"fps": float("inf"), "made_by": {"latent_space": "a", "autoencoder": None}},
    ],
)
def test_latents_of_unknown_origin_are_bad_samples(facts):
    with pytest.raises(BadSample, match="unknown origin"):
        load(latent_sample("a") | {"a.json": json.dumps(facts).encode()})


def test_damaged_samples_are_replaced_and_counted(tmp_path):
    bad = {
        "unreadable latents": latent_sample("b") | {"b.safetensors": b"junk"},
        "incomplete latents": latent_sample("c", motion=None),
        "misshapen latents": latent_sample("d", content=torch.zeros(1, 2)),
        "latents not finite": latent_sample("e", motion=torch.full((3, 2, 5, 6), torch.inf)),
        "unknown origin": latent_sample("f") | {"f.json": b"{}"},
        "unreadable json": latent_sample("g") | {"g.json": b"{"},
        "bad label": latent_sample("h") | {"h.json": b'{"label": -7}'},
        "no latents, `shards encode` makes them": sample("i"),
        "no video": {"j.txt": b"alone"},
    }
    write_tar(tmp_path / "0.tar", [latent_sample("a", 5), *bad.values()])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        batches = list(module(tmp_path, max_bad_share=1, num_workers=1).train_dataloader())
    assert {key for batch in batches for key in plain(batch["key"])} == {"a"}
    said = " ".join(str(warning.message) for warning in caught)
    assert all(f"1 {reason}" in said for reason in bad)
    with pytest.raises(InputError, match="max_bad_share"):
        list(module(tmp_path).train_dataloader())


def test_a_check_counts_latents(latents, tmp_path):
    assert check_shards(str(latents)) == {
        "samples": 13, "bad": {}, "frames": 0, "seconds": 0, "sizes": {}, "rates": {},
        "latents": {"3 clips of content 4x2x3, motion 2x5x6": 13},
    }  # fmt: skip
    nan = torch.full((3, 4, 2, 3), torch.nan)
    samples = [latent_sample("a"), latent_sample("b", content=nan), latent_sample("c") | {"c.safetensors": b"junk"}]
    write_tar(tmp_path / "0.tar", [*samples, sample("d")])
    report = check_shards(str(tmp_path))
    assert report["samples"] == 2
    assert report["bad"] == {"latents not finite": 1, "unreadable latents": 1}
    assert report["sizes"] == {"16x16": {"clips": 1, "frames": 6, "seconds": 0.75}}
    assert read_index(str(tmp_path))["shards"]["0.tar"]["bad"] == {
        "b": "latents not finite",
        "c": "unreadable latents",
    }


def test_video_shards_and_latent_shards_are_told_apart(latents, shards):
    with pytest.raises(InputError, match="13 latents, for LatentDataModule") as error:
        next(iter(WebVidDataModule(str(latents), num_frames=4, size=16).train_dataloader()))
    assert "\n" not in str(error.value)
    with pytest.raises(InputError, match="23 no latents, `shards encode` makes them") as error:
        next(iter(module(shards).train_dataloader()))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    "other",
    [
        {"content": torch.zeros(3, 4, 2, 4)},
        {"moments": torch.zeros(3, 8, 5, 2, 3)},
        {f"text.{ENCODER}.pooled": torch.zeros(9)},
        {f"text.{ENCODER}.mask": None},
        {"text.another.pooled": torch.zeros(9)},
    ],
    ids=str,
)
def test_a_batch_of_two_kinds_is_rejected_on_one_line(tmp_path, other, workers):
    write_tar(tmp_path / "0.tar", [latent_sample("a"), latent_sample("b", **other)])
    with pytest.raises(InputError, match=r"data: clip 0/a has .*, clip 0/b .*one `shards encode`") as error:
        list(module(tmp_path, num_workers=workers).val_dataloader())
    assert "\n" not in str(error.value)
