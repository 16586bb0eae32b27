"""Augmentation of training clips, compared with frames that are changed apart from the project's own code."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from cmd_lightning import cli
from cmd_lightning.data.augmentation import OFF, Augmentation, Change
from cmd_lightning.data.clips import ClipLoader
from cmd_lightning.data.plan import clip_draw
from cmd_lightning.data.webvid import WebVidDataModule
from cmd_lightning.errors import InputError
from cmd_lightning.viewing import PLAIN

COLOURS = {"blue": "#1e90ff", "orange": "#ff8800", "": "white"}


def animated(alpha=True):
    """An animated WebP of 6 frames of 16x16: a dot at (4, 3) over nothing, or over black."""
    frames = np.zeros((6, 16, 16, 4), np.uint8)
    frames[..., 3] = 0 if alpha else 255
    frames[:, 4, 3] = 255, 0, 0, 255
    frames[range(6), 10, range(6)] = 0, 255, 0, 255  # which moves, so that there are six frames
    images = [Image.fromarray(frame) for frame in frames]
    buffer = io.BytesIO()
    images[0].save(buffer, "WEBP", save_all=True, append_images=images[1:], duration=100, loop=0, lossless=True)
    return buffer.getvalue()


def clip(augment=OFF, draw=0, caption="rabbit", alpha=True, **options):
    loader = ClipLoader(3, (16, 16), augment=augment, **options)
    return loader({"__key__": "a", "webp": animated(alpha), "txt": caption.encode()}, draw)


def test_nothing_changes_where_it_is_off():
    for draw in range(5):
        options = {"random_start": True, "random_crop": True}
        plain = ClipLoader(3, (12, 8), **options)({"__key__": "a", "webp": animated(), "txt": b"rabbit"}, draw)
        zero = ClipLoader(3, (12, 8), augment=Augmentation(flip=False), **options)
        assert torch.equal(zero({"__key__": "a", "webp": animated(), "txt": b"rabbit"}, draw)["video"], plain["video"])
        assert plain["caption"] == "rabbit"
    frame = torch.rand(3, 5, 7)
    assert OFF.draw(3, "x").apply(frame) is frame


def test_start_and_crop_are_those_without_it():
    starts = [clip(draw=draw, random_start=True)["video"] for draw in range(8)]
    mirrored = [clip(Augmentation(flip=True), draw, random_start=True)["video"] for draw in range(8)]
    flips = [not torch.equal(one, other) for one, other in zip(starts, mirrored, strict=True)]
    assert all(torch.equal(b, a.flip(-1) if flip else a) for a, b, flip in zip(starts, mirrored, flips, strict=True))
    assert 0 < sum(flips) < 8


def test_a_caption_that_names_a_side_is_not_mirrored():
    flip = Augmentation(flip=True)
    for caption in ("a circle moves left", "Rightwards hand", "left-facing fist"):
        assert not any(flip.draw(draw, caption).flip for draw in range(40))
    assert 8 < sum(flip.draw(draw, "bright star").flip for draw in range(40)) < 32


@pytest.mark.parametrize(("down", "across"), [(0.25, -0.125), (-0.5, 0.0), (0.0, 0.0625)])
def test_a_frame_moves_and_its_edges_are_repeated(down, across):
    frame = torch.arange(3 * 16 * 16, dtype=torch.float32).reshape(3, 16, 16)
    moved = Change(False, down, across, 1.0, "", None).apply(frame)
    pad = 8
    around = np.pad(frame.numpy(), ((0, 0), (pad, pad), (pad, pad)), mode="edge")
    top, left = pad - round(16 * down), pad - round(16 * across)
    assert np.array_equal(moved.numpy(), around[:, top : top + 16, left : left + 16])


@pytest.mark.parametrize("zoom", [0.8, 1.25, 2.0])
def test_a_frame_is_scaled_about_its_middle(zoom):
    square = torch.zeros(3, 160, 160, dtype=torch.uint8)
    square[:, 60:100, 60:100] = 255
    shown = Change(False, 0.0, 0.0, zoom, "", None).apply(square)
    assert shown.shape[1] == shown.shape[2] == round(160 / zoom)
    rows = shown[0].amax(1).nonzero()
    assert (rows.min() + rows.max() + 1) / 2 == pytest.approx(shown.shape[1] / 2, abs=0.5)
    assert len(rows) / shown.shape[1] == pytest.approx(zoom * 40 / 160, rel=0.05)


def test_draws_are_within_their_limits_and_follow_from_the_draw_alone():
    augment = Augmentation(flip=True, shift=0.1, scale=0.2, backgrounds=COLOURS)
    draws = [augment.draw(clip_draw(0, epoch, "000000/a"), "rabbit") for epoch in range(200)]
    assert draws == [augment.draw(clip_draw(0, epoch, "000000/a"), "rabbit") for epoch in range(200)]
    for values, low, high in (
        ([one.down for one in draws], -0.1, 0.1),
        ([one.across for one in draws], -0.1, 0.1),
        ([one.zoom for one in draws], 0.8, 1.2),
    ):
        assert low <= min(values) < low + 0.02
        assert high - 0.02 < max(values) <= high
    assert {one.name for one in draws} == set(COLOURS)


def test_a_transparent_clip_gets_the_background_that_its_caption_names():
    augment = Augmentation(backgrounds=COLOURS)
    seen = {}
    for draw in range(12):
        found = clip(augment, draw)
        seen[found["caption"]] = tuple(found["video"][:, 0, 0, 0].tolist())
    assert seen == {
        "rabbit, on a blue background": (0x1E, 0x90, 0xFF),
        "rabbit, on an orange background": (0xFF, 0x88, 0),
        "rabbit": (255, 255, 255),
    }
    assert clip(Augmentation(backgrounds={"blue": "blue"}), caption="")["caption"] == ""
    opaque = clip(Augmentation(backgrounds={"blue": "blue"}), alpha=False)
    assert opaque["caption"] == "rabbit"
    assert opaque["video"][:, 0, 0, 0].tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"shift": 1.0}, "augment.shift 1.0"),
        ({"scale": -0.1}, "augment.scale -0.1"),
        ({"backgrounds": {"sky": "skyish"}}, "skyish"),
    ],
)
def test_wrong_values_are_rejected(options, words):
    with pytest.raises(InputError, match=words):
        Augmentation(**options)


def test_training_alone_is_augmented_the_same_in_each_run(tmp_path):
    (tmp_path / "emoji").mkdir()
    for name in ("a", "b", "c"):
        (tmp_path / "emoji" / f"{name}.webp").write_bytes(animated())
        (tmp_path / "emoji" / f"{name}.txt").write_text(name)
    assert cli.main(["shards", "pack", "--videos", str(tmp_path / "emoji"), "--out", str(tmp_path / "out")]) == 0
    shards = str(tmp_path / "out")
    augment = Augmentation(True, 0.2, 0.2, {"red": "red"})

    def batches(number):
        options = {"num_frames": 2, "size": 16, "batch_size": 3, "augment": augment}
        data = WebVidDataModule(shards, shards, **options)
        loader = data.train_dataloader() if number else data.val_dataloader()
        return [batch for _ in range(max(number, 1)) for batch in loader]

    first, second = batches(2)
    again = batches(1)[0]
    assert torch.equal(first["video"], again["video"])
    assert first["caption"] == again["caption"] and all(
        one.endswith(", on a red background") for one in first["caption"]
    )
    order = [second["key"].index(key) for key in first["key"]]
    assert not torch.equal(first["video"], second["video"][order])
    assert batches(0)[0]["caption"] == ["a", "b", "c"]
    assert PLAIN.background == "white" and (batches(0)[0]["video"][:, :, :, 0, 0] == 255).all()


def test_a_still_image_keeps_its_background_and_caption():
    still = io.BytesIO()
    Image.new("RGBA", (16, 16), (0, 0, 0, 0)).save(still, "PNG")
    loader = ClipLoader(3, (16, 16), augment=Augmentation(backgrounds={"blue": "blue"}), stills=True)
    found = loader({"__key__": "a", "png": still.getvalue(), "txt": b"rabbit"}, 0)
    assert found["caption"] == "rabbit" and (found["video"] == 255).all()
