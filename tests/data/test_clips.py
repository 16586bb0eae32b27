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


@pytest.mark.parametrize("rate", [8, 10, 15, 24000 / 1001, 24, 25, 30000 / 1001, 30, 50, 60, 120])
@pytest.mark.parametrize("fps", [1, 3, 6.25, 8, 10, 12, 12.5, 15, 23.9, 24, 25, 30, 60])
def test_even_times_choose_what_numbers_do(rate, fps):
    step = rate / fps
    for frames in (2, 3, 16):
        numbers = [int(index * step + 0.5) for index in range(frames)]
        for available in range(max(2, numbers[-1] - 2), numbers[-1] + 8):
            times = [index / rate for index in range(available)]
            if available <= numbers[-1]:
                for spaced in (None, times):
                    with pytest.raises(BadSample, match="too short"):
                        choose_frames(available, frames, step, None, spaced)
                continue
            assert choose_frames(available, frames, step, None, times) == numbers
            for draw in range(4):
                drawn = [choose_frames(available, frames, step, random.Random(draw), each) for each in (None, times)]
                assert drawn[0][0] == drawn[1][0]
                assert max(abs(one - other) for one, other in zip(*drawn, strict=True)) == 0


def test_uneven_times_choose_the_nearest_frame_of_two_the_later():
    times = [0, 1, 2, 6, 7, 8, 12]  # 2 seconds per frame on average
    assert choose_frames(7, 4, 1, None, times) == [0, 2, 3, 3]  # 0, 2, 4 (as near to 2 as to 6), 6
    assert choose_frames(7, 7, 1, None, times) == [0, 2, 3, 3, 5, 6, 6]  # ..., 8, 10 (as near to 8 as to 12), 12
    assert choose_frames(7, 2, 6.49, None, times) == [0, 6]  # 12.98: less than half a mean frame after the last
    with pytest.raises(BadSample, match="too short"):
        choose_frames(7, 2, 6.51, None, times)
    starts = {choose_frames(7, 3, 1, random.Random(i), times)[0] for i in range(200)}
    assert starts == {0, 1, 2, 3, 4, 5}  # 8 + 4 is 12, and 12 + 4 is past the end


@pytest.mark.parametrize("size", [(16, 16), (24, 40), (40, 24), (100, 90), (11, 7)])
def test_resize_is_that_of_pillow(size):
    video = torch.randint(0, 256, (3, 2, 48, 64), dtype=torch.uint8)
    out = resize_and_crop(video, size)
    assert out.shape == (3, 2, *size)
    scale = max(size[0] / 48, size[1] / 64)
    height, width = round(48 * scale), round(64 * scale)
    top, left = (height - size[0]) // 2, (width - size[1]) // 2
    for index in range(2):
        frame = Image.fromarray(video[:, index].permute(1, 2, 0).numpy())
        full = np.asarray(frame.resize((width, height), Image.Resampling.BILINEAR)).astype(int)
        wanted = full[top : top + size[0], left : left + size[1]]
        error = abs(wanted - out[:, index].permute(1, 2, 0).numpy())
        assert error.max() <= 1
        assert error.mean() < 0.02


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_floats_are_resized_as_levels_are_but_not_rounded(dtype):
    levels = torch.randint(0, 256, (3, 2, 48, 64), dtype=torch.uint8)
    floats = levels.to(dtype) / 255
    assert torch.equal(resize_and_crop(floats, (48, 60)), floats[..., 2:62])
    for size in ((31, 24), (90, 100)):
        out = resize_and_crop(floats, size)
        assert (out.shape, out.dtype) == ((3, 2, *size), dtype)
        rounding = (255 * out.double() - resize_and_crop(levels, size)).abs()
        assert rounding.max().item() <= 1.05 + 255 * torch.finfo(dtype).eps  # levels are rounded after either axis
        assert 0.2 < rounding.mean().item() < 0.35
    assert resize_and_crop(torch.ones(3, 1, 48, 64, dtype=dtype), (31, 24)).max() <= 1  # the weights sum to 1.0000001


def test_random_crops_lie_inside():
    video = torch.arange(64).to(torch.uint8).expand(3, 1, 8, 64)
    lefts = [int(resize_and_crop(video, (8, 8), (0.5, draw / 570))[0, 0, 0, 0]) for draw in range(570)]
    assert lefts == sorted([*range(57)] * 10)  # each place equally often
    tops = [int(resize_and_crop(video.mT, (8, 8), (at, 0.5))[0, 0, 0, 0]) for at in (0, 0.5, 1 - 2**-53)]
    assert tops == [0, 28, 56]


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


def test_a_sliver_is_scaled_no_further_than_is_seen():
    video = torch.arange(16000).remainder(251).to(torch.uint8)[None, None, None].expand(3, 1, 1, 16000)
    out = resize_and_crop(video, (256, 256))  # 256x4096000 in full: 3 GB
    assert out.shape == (3, 1, 256, 256)
    assert int(out[0, 0, 0, 0]) in (8000 % 251, 7999 % 251)
    assert resize_and_crop(video.mT, (64, 32), (0.99, 0)).shape == (3, 1, 64, 32)


@pytest.mark.parametrize(
    ("text", "facts", "wanted"),
    [
        ("caf\xe9 \x93noir\x94".encode("latin-1"), {}, "caf\ufffd \ufffdnoir\ufffd"),
        (b"\xef\xbb\xbfa dog \n", {"caption": "not this"}, "a dog"),
        (None, {"caption": " a cat\n"}, "a cat"),
        (None, {"caption": None}, ""),
        (None, {"caption": 1984}, "1984"),
        (None, {"caption": 0}, "0"),
        (None, {"caption": True}, ""),
        (None, {"caption": [3, "the first", "the second"]}, "the first"),
        (None, {"caption": []}, ""),
        (None, {"caption": {"en": "x"}}, ""),
        (None, ["no facts"], ""),
    ],
)
def test_captions_of_all_kinds(text, facts, wanted):
    made = members() | {"json": json.dumps(facts).encode()}
    made = made | {"txt": text} if text is not None else {name: data for name, data in made.items() if name != "txt"}
    assert ClipLoader(2, (8, 8), stride=1)(made, 0)["caption"] == wanted


@pytest.mark.parametrize(
    ("data", "caption"),
    [
        (b'{"caption": "caf\xe9", "label": 3}', "caf\ufffd"),
        (b'\xef\xbb\xbf{"caption": "caf\xc3\xa9", "label": 3}', "café"),
        ('{"caption": "café", "label": 3}'.encode("utf-16"), "café"),
    ],
    ids=["latin-1", "byte order mark", "utf-16"],
)
def test_facts_in_other_encodings(data, caption):
    made = members() | {"json": data}
    del made["txt"]
    clip = ClipLoader(2, (8, 8), stride=1)(made, 0)
    assert (clip["caption"], clip["label"]) == (caption, 3)


def test_reasons():
    loader = ClipLoader(4, (16, 16), stride=1)
    good = members()
    for reason, broken in {
        "no video": {"__key__": "a", "txt": b"x"},
        "unreadable video": good | {"mp4": b"junk"},
        "empty file": good | {"mp4": b""},
        "unreadable json": good | {"json": b"[" * 100_000},
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
