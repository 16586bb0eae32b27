import json
import random

import numpy as np
import pytest
import torch
from PIL import Image
from shard_files import sample, write_tar

from cmd_lightning.data.check import check_shards
from cmd_lightning.data.clips import BadSample, ClipLoader, choose_frames, resize_and_crop
from cmd_lightning.video_io import read_video


def members(key="a", **options):
    made = sample(key, **options)
    return {"__key__": key} | {name.split(".")[1]: data for name, data in made.items()}


def test_frames_by_stride_and_rate():
    assert choose_frames(20, 4, 3, None) == [0, 3, 6, 9]
    assert choose_frames(30, 4, 30 / 12, None) == [0, 3, 5, 8]  # 0, 2.5, 5, 7.5
    assert choose_frames(10, 4, 0.5, None) == [0, 1, 1, 2]  # a slow source repeats frames
    starts = {choose_frames(12, 4, 3, random.Random(i))[0] for i in range(50)}
    assert starts == {0, 1, 2}
    assert choose_frames(10, 4, 3, random.Random(0)) == [0, 3, 6, 9]
    with pytest.raises(BadSample, match="too short"):
        choose_frames(9, 4, 3, None)


@pytest.mark.parametrize("size", [(16, 16), (24, 40), (40, 24), (100, 90), (11, 7)])
def test_resize_is_that_of_pillow(size):
    video = torch.randint(0, 256, (3, 2, 48, 64), dtype=torch.uint8)
    out = resize_and_crop(video, size)
    assert out.shape == (3, 2, *size)
    scale = max(size[0] / 48, size[1] / 64)
    height, width = round(48 * scale), round(64 * scale)
    top, left = (height - size[0]) // 2, (width - size[1]) // 2
    for index in range(2):
        picture = Image.fromarray(video[:, index].permute(1, 2, 0).numpy())
        full = np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR)).astype(int)
        wanted = full[top : top + size[0], left : left + size[1]]
        assert abs(wanted - out[:, index].permute(1, 2, 0).numpy()).max() <= 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_floats_are_resized_as_levels_are_but_not_rounded(dtype):
    levels = torch.randint(0, 256, (3, 2, 48, 64), dtype=torch.uint8)
    floats = levels.to(dtype) / 255
    assert torch.equal(resize_and_crop(floats, (48, 60)), floats[..., 2:62])
    for size in ((31, 24), (90, 100)):
        out = resize_and_crop(floats, size)
        assert (out.shape, out.dtype) == ((3, 2, *size), dtype)
        rounding = (255 * out.double() - resize_and_crop(levels, size)).abs().max().item()
        assert rounding == pytest.approx(0.5, abs=0.05 + 255 * torch.finfo(dtype).eps)
    assert resize_and_crop(torch.ones(3, 1, 48, 64, dtype=dtype), (31, 24)).max() <= 1  # the weights sum to 1.0000001


def test_random_crops_lie_inside():
    video = torch.arange(64).to(torch.uint8).expand(3, 1, 8, 64)
    lefts = {int(resize_and_crop(video, (8, 8), random.Random(i))[0, 0, 0, 0]) for i in range(400)}
    assert min(lefts) == 0
    assert max(lefts) == 56


def test_caption_label_rate_and_frames():
    made = members(index=2, frames=6)
    clip = ClipLoader(3, (16, 16), stride=2)(made, 0)
    assert clip["caption"] == made["txt"].decode()
    assert (clip["label"], clip["key"], clip["fps"]) == (2, "a", 4.0)
    assert torch.equal(clip["video"], read_video(made["mp4"])[:, [0, 2, 4]])
    del made["txt"]
    made["json"] = json.dumps({"caption": "from json"}).encode()
    clip = ClipLoader(3, (16, 16), fps=4.0)(made, 0)
    assert (clip["caption"], clip["label"], clip["fps"]) == ("from json", -1, 4.0)


def test_draws_decide_everything_random():
    loader = ClipLoader(2, (8, 12), stride=1, random_start=True, random_crop=True)
    made = members(frames=12)
    assert torch.equal(loader(made, 5)["video"], loader(made, 5)["video"])
    assert len({loader(made, draw)["video"].numpy().tobytes() for draw in range(10)}) > 3


def test_reasons():
    loader = ClipLoader(4, (16, 16), stride=1)
    good = members()
    for reason, broken in {
        "no video": {"__key__": "a", "txt": b"x"},
        "unreadable video": good | {"mp4": b"junk"},
        "unreadable json": good | {"json": b"{"},
        "too short": members(frames=3),
    }.items():
        with pytest.raises(BadSample, match=reason):
            loader(broken, 0)


@pytest.mark.parametrize("label", [True, False, -2, 10**22])
def test_a_label_that_is_no_class_is_bad_in_streams_and_checks(tmp_path, label):
    with pytest.raises(BadSample, match="bad label"):
        ClipLoader(4, (16, 16), stride=1)(members(label=label), 0)
    write_tar(tmp_path / "0.tar", [sample("a"), sample("b", label=label)])
    assert check_shards(str(tmp_path))["bad"] == {"bad label": 1}
