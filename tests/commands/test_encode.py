"""`shards encode`: latents equal those of training without it; complete shards even after interruptions."""

import io
import json
import os
import signal
import tarfile
from types import SimpleNamespace

import pytest
import torch
from stable_diffusion_folders import write_stable_diffusion

from cmd_lightning.atomic_files import held
from cmd_lightning.cli import main
from cmd_lightning.components import MotionDiffusion, VideoAutoencoder
from cmd_lightning.components.encoding import Encoding
from cmd_lightning.data import fetch
from cmd_lightning.data.cache import ShardCache
from cmd_lightning.data.encode import EncodingData, WholeShards
from cmd_lightning.data.latents import LatentDataModule
from cmd_lightning.data.webvid import WebVidDataModule
from cmd_lightning.errors import InputError
from cmd_lightning.latent_space import FrameLatents, Pixels
from cmd_lightning.pretrained_text import open_text_encoder
from cmd_lightning.shapes.synth import write_shapes
from cmd_lightning.zoo.motion.dit import MotionDiT

CLIP = {"num_frames": 5, "size": [16, 24], "fps": 4.0, "crop": "random"}
DRAWN = ["--fps", 4, "--crop", "random"]
SHAPES = {"pixels": (3, 5, 16, 24), "vae": (4, 5, 2, 3)}


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Shards of 4, 4 and 3 videos of 13 frames at 8 a second."""
    folder = tmp_path_factory.mktemp("videos")
    write_shapes(folder, num=11, size=32, frames=13, fps=8.0, seed=0, split="train", shard_size=4)
    return folder


@pytest.fixture(scope="module")
def stable_diffusion(tmp_path_factory):
    return write_stable_diffusion(tmp_path_factory.mktemp("models") / "sd")


@pytest.fixture
def checkpoint(tmp_path, save_checkpoint, tiny_autoencoder, stable_diffusion):
    """Makes a checkpoint of a first stage, in pixels or in the latents of a VAE."""

    def make(kind="pixels", name="autoencoder.ckpt"):
        space = Pixels() if kind == "pixels" else FrameLatents(str(stable_diffusion))
        space.open()
        settings = {"pixels": {"patch_size": 4}, "vae": {"patch_size": 1, "channels": 4}}[kind]
        stage = VideoAutoencoder(lambda: tiny_autoencoder(**settings), latent_space=space)
        stage.video_shape, stage.fps = SHAPES[kind], 4.0
        return str(save_checkpoint(stage, tmp_path / name))

    return make


def encode(*arguments, code=0):
    """Runs the verb without workers."""
    found = main(["shards", "encode", *map(str, arguments), "--num-workers", "0"])
    assert found == code
    return found


def members(folder):
    """The bytes of all members, by shard and name."""
    found = {}
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as tar:
            found[path.name] = {member.name: tar.extractfile(member).read() for member in tar}
    return found


def by_key(data, component, epochs):
    """Content and motion of each sample as a component sees them in each epoch, by epoch and key."""
    found = {}
    for epoch in range(epochs):
        for batch in data.train_dataloader():
            with torch.no_grad():
                content, motion = component.encoded(batch)
            assert batch["epoch"] == epoch
            for i, key in enumerate(batch["key"]):
                found[epoch, key] = content[i], motion[i]
    return found


@pytest.mark.parametrize("kind", ["pixels", "vae"])
def test_latents_are_those_of_training_on_the_fly(videos, checkpoint, tmp_path, kind):
    path = checkpoint(kind)
    options = ["--autoencoder", path, *DRAWN, "--clips-per-video", 2, "--seed", 3, "--batch-size", 3]
    encode(videos, "--out", tmp_path / "exact", *options, "--dtype", "float32")
    encode(videos, "--out", tmp_path / "half", *options)
    component = MotionDiffusion(lambda spec, dim: MotionDiT(spec, dim, width=16, depth=1, heads=2), path).train()
    seen = by_key(WebVidDataModule(str(videos), **CLIP, seed=3, batch_size=2), component, 2)
    exact = by_key(LatentDataModule(str(tmp_path / "exact"), batch_size=5), component, 3)
    half = by_key(LatentDataModule(str(tmp_path / "half"), batch_size=5), component, 2)
    assert len(seen) == 22
    for (epoch, key), clip in seen.items():
        for own, theirs in zip(exact[epoch, key], clip, strict=True):
            torch.testing.assert_close(own, theirs, atol=1e-5, rtol=1e-5)
        for own, theirs in zip(half[epoch, key], exact[epoch, key], strict=True):  # motion: normalised after rounding
            assert ((own - theirs).abs() <= 2**-10 * theirs.abs().clamp(min=1)).all()
        assert not all(torch.equal(a, b) for a, b in zip(half[epoch, key], exact[epoch, key], strict=True))
        assert all(torch.equal(a, b) for a, b in zip(exact[0, key], exact[2, key], strict=True))
    assert sum((seen[0, key][0] - seen[1, key][0]).abs().max() > 0.01 for _, key in seen) > 11  # clips differ


def test_validation_sees_first_frames_and_means(videos, checkpoint, tmp_path):
    path = checkpoint("vae")
    options = ["--autoencoder", path, "--fps", 4, "--evaluation"]
    encode(videos, "--out", tmp_path / "out", *options, "--dtype", "float32")
    component = MotionDiffusion(lambda spec, dim: MotionDiT(spec, dim, width=16, depth=1, heads=2), path).eval()
    on_the_fly = WebVidDataModule(val_shards=str(videos), **CLIP, batch_size=4).val_dataloader()
    stored = LatentDataModule(val_shards=str(tmp_path / "out"), batch_size=4).val_dataloader()
    for seen, kept in zip(on_the_fly, stored, strict=True):
        assert seen["key"] == kept["key"]
        assert seen["caption"] == kept["caption"]
        assert torch.equal(seen["label"], kept["label"])
        assert torch.equal(seen["fps"], kept["fps"])
        with torch.no_grad():
            for own, theirs in zip(component.encoded(kept), component.encoded(seen), strict=True):
                torch.testing.assert_close(own, theirs, atol=1e-5, rtol=1e-5)
    encode(videos, "--out", tmp_path / "2", *options, "--clips-per-video", 2, code=2)


def test_moments_and_text(videos, stable_diffusion, tmp_path):
    out = tmp_path / "out"
    options = ["--frames", 5, "--size", "16x24", "--dtype", "bfloat16", "--clips-per-video", 2, "--batch-size", 3]
    encode(videos, "--out", out, "--vae", stable_diffusion, "--text", stable_diffusion, *options)
    space, encoder = FrameLatents(str(stable_diffusion)), open_text_encoder(str(stable_diffusion))
    data = WebVidDataModule(str(videos), num_frames=5, size=[16, 24], batch_size=3)
    seen = {}
    for batch in data.train_dataloader():
        moments = space.moments(batch["video"].float() / 127.5 - 1)
        text = encoder(batch["caption"])
        for i, key in enumerate(batch["key"]):
            seen[key] = moments[i], text.pooled[i], text.tokens[i], text.mask[i]
    kept = list(LatentDataModule(str(out), batch_size=4).train_dataloader())
    assert sum(len(batch["key"]) for batch in kept) == 11
    for batch in kept:
        (stored,) = batch["text"].values()
        assert list(batch["text"]) == [encoder.fingerprint]
        assert batch["made_by"][0] == {"latent_space": space.fingerprint, "autoencoder": None}
        assert batch["moments"].dtype == stored["tokens"].dtype == torch.bfloat16
        for i, key in enumerate(batch["key"]):
            own = batch["moments"][i], stored["pooled"][i], stored["tokens"][i]
            for ours, theirs in zip(own, seen[key], strict=False):
                torch.testing.assert_close(ours.float(), theirs, atol=2**-8, rtol=2**-8)
            assert torch.equal(stored["mask"][i], seen[key][3])


def test_training_on_latents_equals_training_on_videos(videos, checkpoint, tmp_path):
    path = checkpoint("vae")
    encode(videos, "--out", tmp_path / "latents", "--autoencoder", path, *DRAWN, "--dtype", "float32",
           "--clips-per-video", 2)  # fmt: skip
    weights = []
    for name, data in (
        ("on the fly", WebVidDataModule(str(videos), **CLIP, batch_size=2)),
        ("stored", LatentDataModule(str(tmp_path / "latents"), batch_size=2)),
    ):
        from lightning import Trainer, seed_everything

        seed_everything(0, verbose=False)
        component = MotionDiffusion(lambda spec, dim: MotionDiT(spec, dim, width=16, depth=1, heads=2), path)
        quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
        trainer = Trainer(max_epochs=2, default_root_dir=tmp_path / name, enable_checkpointing=False, **quiet)
        trainer.fit(component, datamodule=data)
        weights.append(component.network.state_dict())
    for name in weights[0]:
        torch.testing.assert_close(weights[1][name], weights[0][name], atol=1e-5, rtol=1e-5)


def test_each_shard_keeps_its_name_order_and_facts(videos, checkpoint, tmp_path, capsys):
    out = tmp_path / "new" / "out"
    encode(videos, "--out", out, "--autoencoder", checkpoint(), "--json", "-")
    report = json.loads(capsys.readouterr().out)
    assert (report["samples"], report["now"]["shards"], report["now"]["bad"]) == (11, 3, {})
    sources, made = members(videos), members(out)
    assert list(made) == list(sources) == ["000000.tar", "000001.tar", "000002.tar"]
    for name, source in sources.items():
        keys = [member[:-4] for member in source if member.endswith(".mp4")]
        assert list(made[name]) == [f"{key}.{end}" for key in keys for end in ("json", "safetensors", "txt")]
        for key in keys:
            assert made[name][f"{key}.txt"] == source[f"{key}.txt"]
            before, after = (json.loads(held[f"{key}.json"]) for held in (source, made[name]))
            made_by = {"latent_space": "pixels", "autoencoder": report["autoencoder"]}
            assert after == before | {"fps": 8.0, "made_by": made_by}  # each frame, as the videos have them
    index = json.loads((out / "index.json").read_text())
    assert [entry["samples"] for entry in index["shards"].values()] == [4, 4, 3]
    assert sorted(path.name for path in out.iterdir()) == [*made, "encode.json", "index.json"]
    kept = json.loads((out / "encode.json").read_text())
    assert kept["settings"]["frames"] == 5
    assert {"versions", "hardware", "given"} <= set(kept)
    assert main(["shards", "check", str(out), "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out)["samples"] == 11


class Stopped(Exception):
    pass


@pytest.mark.parametrize("end", [KeyboardInterrupt, SystemExit, Stopped])
def test_what_is_complete_stays_and_the_rest_is_made_later(videos, checkpoint, tmp_path, monkeypatch, end):
    options = ["--autoencoder", checkpoint(), "--batch-size", "3"]
    encode(videos, "--out", tmp_path / "whole", *options)
    out, step, chunks = tmp_path / "out", Encoding.predict_step, []

    def die(self, batch, batch_idx):
        chunks.append(batch["shard"])
        if len(chunks) == 5:  # the second chunk of the second shard
            if end is not SystemExit:
                raise end
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, batch, batch_idx)

    handler = signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patch:
        patch.setattr(Encoding, "predict_step", die)
        if end is Stopped:
            with pytest.raises(Stopped):
                encode(videos, "--out", out, *options)
        else:
            encode(videos, "--out", out, *options, code=130 if end is KeyboardInterrupt else 143)
    signal.signal(signal.SIGINT, handler)  # Lightning ignores it from the first Ctrl-C on
    assert chunks[-1] == "000001.tar"
    assert sorted(path.name for path in out.iterdir()) == ["000000.tar", "encode.json"]
    (out / ".part-000001").write_bytes(b"what a killed process leaves" * 100_000)
    before = (out / "000000.tar").stat()
    encode(videos, "--out", out, *options)
    assert (out / "000000.tar").stat().st_mtime_ns == before.st_mtime_ns
    for path in (tmp_path / "whole").glob("*.tar"):
        assert (out / path.name).read_bytes() == path.read_bytes()
    assert not list(out.glob(".part*"))
    assert len(json.loads((out / "index.json").read_text())["shards"]) == 3


def test_another_process_at_the_same_shard_is_reported(videos, checkpoint, tmp_path, capsys):
    out = tmp_path / "out"
    out.mkdir()
    with held(out / ".lock-000000"):
        encode(videos, "--out", out, "--autoencoder", checkpoint(), code=2)
    assert "another process is writing 000000.tar" in capsys.readouterr().err
    assert not list(out.glob("*.tar"))


def test_other_settings_are_rejected(videos, checkpoint, stable_diffusion, tmp_path, capsys):
    out, path = tmp_path / "out", checkpoint()
    first = ["--out", out, "--autoencoder", path]
    encode(videos, *first)
    before = members(out)
    for changes, message in (
        (["--seed", "1"], "seed 0, not 1"),
        (["--crop", "random"], "crop center, not random"),
        (["--clips-per-video", "2"], "clips_per_video 1, not 2"),
        (["--dtype", "float32"], "dtype float16, not float32"),
        (["--stride", "2"], "stride 1, not 2"),
        (["--fps", "4"], "fps None, not 4.0, stride 1, not None"),
        (["--evaluation"], "evaluation False, not True"),
        (["--precision", "bf16-true"], "precision 32-true, not bf16-true"),
        (["--text", stable_diffusion], "text , not "),
        (["--autoencoder", checkpoint(name="other.ckpt")], "autoencoder "),
    ):
        encode(videos, *first, *changes, code=2)
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert f"out {out}: its shards were made with {message}" in error, changes
    encode(videos / "000000.tar", *first, code=2)
    assert "sources 000000.tar, 000001.tar, 000002.tar, not 000000.tar" in capsys.readouterr().err
    assert members(out) == before
    (out / "encode.json").write_text("{damaged")
    encode(videos, *first, code=2)
    assert "encode.json is damaged" in capsys.readouterr().err
    encode(videos, "--out", videos, "--autoencoder", path, code=2)
    assert "it holds other shards" in capsys.readouterr().err


@pytest.fixture
def spoiled(videos, tmp_path):
    """The shards with samples of four kinds of faults in the second."""
    folder = tmp_path / "spoiled"
    folder.mkdir()
    for path in videos.glob("*.tar"):
        (folder / path.name).write_bytes(path.read_bytes())
    clip = members(videos)["000000.tar"]["00000000000.mp4"]
    short = write_one(tmp_path, frames=4)["00000000000.mp4"]
    with tarfile.open(folder / "000001.tar", "a") as tar:
        for name, data in (
            ("a.mp4", b"junk"), ("b.txt", b"alone"), ("c.mp4", clip), ("c.json", b'{"label": -7}'), ("d.mp4", short),
            ("e.mp4", clip),
        ):  # fmt: skip
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return folder


def write_one(folder, frames):
    write_shapes(folder / "one", num=1, size=32, frames=frames, fps=8.0, seed=0, split="train")
    return members(folder / "one")["000000.tar"]


BAD = {"unreadable video": 1, "no video": 1, "bad label": 1, "too short": 1}


def test_bad_samples_are_left_out_and_counted(spoiled, checkpoint, tmp_path, capsys):
    path = checkpoint()
    encode(spoiled, "--out", tmp_path / "out", "--autoencoder", path, "--json", "-")
    captured = capsys.readouterr()
    assert json.loads(captured.out)["now"]["bad"] == BAD
    assert "000001.tar: 5 samples; left out: 1 bad label, 1 no video, 1 too short, 1 unreadable video" in captured.err
    assert json.loads(captured.out)["samples"] == 12
    assert [name for name in members(tmp_path / "out")["000001.tar"] if name.startswith("e.")]
    assert main(["shards", "check", str(spoiled)]) == 1  # now the index knows them
    capsys.readouterr()
    encode(spoiled, "--out", tmp_path / "again", "--autoencoder", path, "--json", "-")
    assert json.loads(capsys.readouterr().out)["now"]["bad"] == BAD
    assert members(tmp_path / "again") == members(tmp_path / "out")


def test_latents_beyond_the_type_are_left_out(videos, checkpoint, tmp_path, capsys, monkeypatch):
    latents = Encoding.latents

    def large(self, batch):
        made = latents(self, batch)
        made["motion"][batch["key"].index("000001/00000100001") if "000001/00000100001" in batch["key"] else 0] *= 1e9
        return made if "000001/00000100001" in batch["key"] else latents(self, batch)

    monkeypatch.setattr(Encoding, "latents", large)
    encode(videos, "--out", tmp_path / "out", "--autoencoder", checkpoint(), "--json", "-")
    report = json.loads(capsys.readouterr().out)
    assert (report["samples"], report["now"]["bad"]) == (10, {"latents not finite": 1})
    assert not [name for name in members(tmp_path / "out")["000001.tar"] if name.startswith("00000100001")]


@pytest.mark.slow
def test_two_processes_share_the_shards(python, spoiled, checkpoint, tmp_path, capsys):
    """What they make, and what they tell once, is what one makes."""
    path, out = checkpoint("vae"), tmp_path / "two"
    command = ["-m", "cmd_lightning", "shards", "encode", spoiled, "--out", out, "--autoencoder", path,
               "--devices", "2", "--num-workers", "1", "--json", tmp_path / "two.json"]  # fmt: skip
    two = python.run(*command)
    assert two.returncode == 0, two.stderr
    torch.set_num_threads(1)  # as each of the two has; the last bit of sums depends on it
    encode(spoiled, "--out", tmp_path / "alone", "--autoencoder", path)
    assert members(out) == members(tmp_path / "alone")
    report = json.loads((tmp_path / "two.json").read_text())
    assert (report["samples"], report["now"]["shards"], report["now"]["bad"]) == (12, 3, BAD)
    assert two.stderr.count("000001.tar: 5 samples") == 1
    assert (out / "index.json").read_text() == (tmp_path / "alone" / "index.json").read_text()
    assert not list(out.glob(".*"))


def test_a_shard_that_cannot_be_read_is_named_and_the_others_are_made(
    videos, checkpoint, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(fetch, "_pause", lambda seconds: None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    gone, out = tmp_path / "000001.tar", tmp_path / "out"
    names = [videos / "000000.tar", f"pipe:cat {gone}", videos / "000002.tar"]
    options = ["--out", out, "--autoencoder", checkpoint(), "--allow-commands"]
    encode(*names, *options, code=2)
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "SHARDS: 1 of 3 could not be read, the others are complete: pipe:cat" in error
    assert sorted(path.name for path in out.glob("*.tar")) == ["000000.tar", "000002.tar"]
    gone.write_bytes((videos / "000001.tar").read_bytes())
    encode(*names, *options)
    assert len(members(out)["000001.tar"]) == 12
    encode(*names[:2], *options[:-1], code=2)
    assert "allow_commands" in capsys.readouterr().err


def test_classes_go_with_the_shards(videos, checkpoint, tmp_path):
    from cmd_lightning.data.index import load_index, update_index

    folder = tmp_path / "videos"
    folder.mkdir()
    path = folder / "0.tar"
    path.write_bytes((videos / "000002.tar").read_bytes())
    update_index(folder, load_index([str(path)]), ["cat", "dog"])
    encode(folder, "--out", tmp_path / "out", "--autoencoder", checkpoint())
    assert json.loads((tmp_path / "out" / "index.json").read_text())["classes"] == ["cat", "dog"]


def test_mistakes_are_reported_on_one_line(videos, checkpoint, stable_diffusion, tmp_path, capsys):
    path, out = checkpoint(), tmp_path / "made" / "out"
    good, vae = ["--autoencoder", path], ["--vae", stable_diffusion]
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / "000000.tar").write_bytes(b"")
    for arguments, message in (
        ([videos], "give one of the two"),
        ([videos, *good, *vae], "give one of the two"),
        ([videos, "--autoencoder", tmp_path / "none.ckpt"], "--autoencoder"),
        ([videos, "--vae", tmp_path / "none"], "--vae"),
        ([videos, *vae], "--size: missing; give"),
        ([videos, *vae, "--size", "16x20"], "--size 16x20: height and width must be multiples of 8"),
        ([videos, *vae, "--size", "huge"], "--size huge"),
        ([videos, *good, "--frames", "6"], "was trained on 5 frames of 16x24"),
        ([videos, *good, "--size", "24x16"], "was trained on 5 frames of 16x24"),
        ([videos, *good, "--fps", "8", "--stride", "2"], "give one of the two"),
        ([videos, *good, "--variant", "fp16"], "these are for --vae"),
        ([videos, *good, "--evaluation", "--crop", "random"], "--evaluation"),
        ([videos, *good, "--text", tmp_path / "none"], f"--text {tmp_path / 'none'}"),
        ([videos, *good, "--batch-size", "0"], "--batch-size 0"),
        ([videos, *good, "--clips-per-video", "0"], "--clips-per-video 0"),
        ([videos, *good, "--nodes", "2"], "with torchrun"),
        ([videos, *good, "--seed", "-1"], "--seed -1"),
        ([videos, *good, "--frames", "0"], "was trained on"),
        ([videos, *vae, "--size", "16", "--frames", "0"], "--frames 0: must"),
        ([videos / "none.tar", *good], "none.tar: there is no such file or folder"),
        ([videos, tmp_path / "copy", *good], "both are called 000000.tar"),
        (["http://host/shard?name=0.tar", *good], "it must end in NAME.tar"),
    ):
        assert main(["shards", "encode", *map(str, arguments), "--out", str(out)]) == 2, arguments
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert error.startswith("cmd-lightning: "), error
        assert message in error, (arguments, error)
    assert not out.exists()
    encode(videos, *good, "--frames", "5", "--size", "16x24", "--out", out)
    encode(out, *good, "--out", tmp_path / "latents of latents", code=2)
    assert "latents, for LatentDataModule" in capsys.readouterr().err
    with pytest.raises(InputError, match="another autoencoder"):
        component = MotionDiffusion(
            lambda spec, dim: MotionDiT(spec, dim, width=16, depth=1, heads=2), checkpoint(name="other.ckpt")
        )
        component.encoded(next(iter(LatentDataModule(str(out)).train_dataloader())))


@pytest.mark.parametrize("done", [[], ["000000.tar"], ["000001.tar", "000003.tar"]], ids=str)
def test_ranks_agree_without_a_word_whatever_is_done_when_they_look(tmp_path, done):
    urls = [str(tmp_path / "videos" / f"{i:06d}.tar") for i in range(5)]
    (tmp_path / "videos").mkdir()
    for url in urls:
        with tarfile.open(url, "w"):
            pass
    out = tmp_path / "out"
    out.mkdir()
    read = []
    for rank in range(2):
        chunks = WholeShards(clips=None, clips_per_video=1, batch_size=1, seed=0, remote=ShardCache())
        data = EncodingData(urls, out, chunks, workers=0)
        data.trainer = SimpleNamespace(global_rank=rank, world_size=2)
        read.append([chunk["shard"] for chunk in data.predict_dataloader()])
        for name in done:  # by the other rank, meanwhile
            (out / name).touch()
    assert read[0] == ["000000.tar", "000002.tar", "000004.tar"]
    assert read[1] == [name for name in ("000001.tar", "000003.tar") if name not in done]
