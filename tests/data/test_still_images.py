"""Still images as clips without motion, mixed with video."""

import io
import json

import lightning
import numpy as np
import pytest
import torch
from PIL import Image
from shard_files import plain, sample, write_tar

from cmd_lightning.components import MotionDiffusion
from cmd_lightning.data.check import check_shards
from cmd_lightning.data.clips import ClipLoader, resize_and_crop
from cmd_lightning.data.webvid import WebVidDataModule
from cmd_lightning.errors import InputError
from cmd_lightning.evaluation.sources import Selection, open_source
from cmd_lightning.zoo.motion.dit import MotionDiT

KINDS = ("jpg", "png", "webp", "jpeg")


def pixels(number, height=20, width=24):
    return np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)


def image(number, kind):
    buffer = io.BytesIO()
    options = {"lossless": True} if kind == "webp" else {}
    Image.fromarray(pixels(number)).save(buffer, "jpeg" if kind == "jpg" else kind, **options)
    return buffer.getvalue()


def image_sample(number):
    kind = KINDS[number % 4]
    about = json.dumps({"label": number % 4}).encode()
    return {
        f"i{number}.{kind}": image(number, kind),
        f"i{number}.txt": f"image {number}".encode(),
        f"i{number}.json": about,
    }


@pytest.fixture
def shards(tmp_path):
    """A shard of videos, one of images, and one of both with a thumbnail next to a video."""
    write_tar(tmp_path / "videos.tar", [sample(f"v{i}", i) for i in range(5)])
    write_tar(tmp_path / "images.tar", [image_sample(i) for i in (0, 1, 3, 4, 5, 7)])
    both = [sample("v5", 5) | {"v5.jpg": image(50, "jpg")}, image_sample(6), {"i9.png": b"junk"}, {"i8.txt": b"alone"}]
    write_tar(tmp_path / "both.tar", both)
    return tmp_path


def module(train, images="still", **options):
    options = {"num_frames": 4, "size": 16, "batch_size": 3, "max_bad_share": 0.5} | options
    return WebVidDataModule(train, images=images, **options)


def batches(loader):
    return {
        key: (video, caption, label, fps)
        for batch in loader
        for key, video, caption, label, fps in zip(
            plain(batch["key"]),
            batch["video"],
            batch["caption"],
            batch["label"].tolist(),
            batch["fps"].tolist(),
            strict=True,
        )
    }


@pytest.mark.parametrize("workers", [0, 2])
def test_images_are_clips_without_motion(shards, workers):
    data = module(str(shards / "{videos,images,both}.tar"), num_workers=workers, fps=8.5)
    seen = batches(data.train_dataloader())
    assert sorted(seen) == [*(f"i{i}" for i in (0, 1, 3, 4, 5, 6, 7)), *(f"v{i}" for i in range(6))]
    for number in (0, 1, 3, 4, 5, 6, 7):
        video, caption, label, fps = seen[f"i{number}"]
        assert video.shape == (3, 4, 16, 16)
        assert (caption, label, fps) == (f"image {number}", number % 4, 8.5)
        assert torch.equal(video, video[:, :1].expand_as(video))
        if KINDS[number % 4] in ("png", "webp"):  # without loss
            frame = torch.from_numpy(pixels(number)).permute(2, 0, 1)[:, None]
            assert torch.equal(video[:, :1], resize_and_crop(frame, (16, 16)))
    assert not any(torch.equal(seen[f"v{i}"][0][:, 0], seen[f"v{i}"][0][:, -1]) for i in range(6))


def test_a_crop_is_the_same_in_all_frames(shards):
    loader = ClipLoader(3, (8, 8), stride=1, random_crop=True, stills=True)
    wide = io.BytesIO()
    Image.fromarray(pixels(0, 8, 40)).save(wide, "png")
    clips = [loader({"__key__": "a", "png": wide.getvalue()}, draw)["video"] for draw in range(9)]
    assert all(torch.equal(clip[:, 0], clip[:, -1]) for clip in clips)
    assert len({clip.numpy().tobytes() for clip in clips}) > 4


def test_images_have_a_weight(shards):
    data = module({str(shards / "videos.tar"): 1, str(shards / "images.tar"): 2}, fps=8.0)
    seen = batches(data.train_dataloader())
    assert sum(key[0] == "i" for key in seen) == 10
    assert sum(key[0] == "v" for key in seen) == 5


def test_what_forbids_images_reads_what_it_read_before(shards):
    seen = batches(module(str(shards / "{videos,both}.tar"), "forbid").train_dataloader())
    assert sorted(seen) == [f"v{i}" for i in range(6)]


@pytest.mark.parametrize("option", ["train_shards", "val_shards", "test_shards"])
def test_an_image_shard_where_video_is_needed_is_an_error(shards, option):
    given = {option: str(shards / "{videos,images}.tar")}
    data = WebVidDataModule(num_frames=4, size=16, **given)
    with pytest.raises(
        InputError, match=rf"{option} .*images\.tar: holds still images, .* set data\.images still"
    ) as error:
        getattr(data, f"{option.partition('_')[0]}_dataloader")()
    assert "\n" not in str(error.value)
    data = WebVidDataModule(num_frames=4, size=16, images="still", **given)
    if option == "test_shards":  # what a test measures is motion, too
        with pytest.raises(InputError, match=rf"{option} .*images\.tar: holds still images"):
            data.test_dataloader()
    else:
        assert len(batches(getattr(data, f"{option.partition('_')[0]}_dataloader")())) == 11


def webp(number, frames):
    """A WebP of so many frames, each of one colour."""
    buffer = io.BytesIO()
    images = [Image.new("RGB", (24, 20), (40 * frame, 10 * number, 0)) for frame in range(frames)]
    images[0].save(buffer, "webp", save_all=frames > 1, append_images=images[1:], lossless=True)
    return {f"w{number}.webp": buffer.getvalue(), f"w{number}.txt": b"x"}


@pytest.mark.parametrize("checked", [False, True])
def test_still_webp_is_known_before_the_first_batch(shards, checked):
    """Webp is a suffix of animations, too."""
    write_tar(shards / "stills.tar", [webp(i, 1) for i in range(4, 8)])
    write_tar(shards / "moving.tar", [webp(i, 5) for i in range(4)])
    given = str(shards / "{moving,stills}.tar")
    if checked:
        assert check_shards(given)["bad"] == {"still image": 4}
    with pytest.raises(
        InputError, match=r"^train_shards .*stills\.tar: holds still images, .* set data\.images still$"
    ) as error:
        module(given, "forbid").prepare_data()
    assert "\n" not in str(error.value)
    assert len(batches(module(str(shards / "moving.tar"), "forbid").train_dataloader())) == 4
    assert len(batches(module(given).train_dataloader())) == 8
    assert len(batches(module(given, select={"caption": {"equals": "x"}}).train_dataloader())) == 8


def test_an_evaluation_of_images_is_an_error(shards):
    with pytest.raises(InputError, match=r"images\.tar: holds no usable clips \(6 no video\)"):
        open_source(str(shards / "images.tar"), Selection(frames=4))


def test_selected_images(shards):
    data = module(str(shards / "{videos,images,both}.tar"), select={"caption": {"matches": "^image [2-6]"}})
    assert sorted(batches(data.train_dataloader())) == [f"i{i}" for i in range(3, 7)]


def test_a_motion_model_of_images_is_an_error(shards, tiny_autoencoder):
    component = MotionDiffusion(
        lambda spec, dim: MotionDiT(spec, dim, width=16, depth=1, heads=2),
        tiny_autoencoder(),
        video_shape=(3, 4, 16, 16),
    )
    running = lightning.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False, max_steps=1
    )
    with pytest.raises(InputError, match=r"data\.images still: the motion stage needs video"):
        running.fit(component, datamodule=module(str(shards / "videos.tar")))
