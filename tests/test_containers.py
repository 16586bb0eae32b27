"""Containers without an index of frames, or with times that begin anywhere: frames equal those of a plain decode."""

import io
from fractions import Fraction

import av
import numpy as np
import pytest
import torch
from odd_videos import encode, numbered, numbers_in

from cmd_lightning import video_file
from cmd_lightning.video_file import VideoError
from cmd_lightning.video_io import VideoReader

KINDS = [  # container, codec, options
    ("mpegts", "libx264", {"g": "12", "bf": "3", "x264-params": "open-gop=1"}),
    ("mpegts", "libx265", {"x265-params": "log-level=none:keyint=12"}),
    ("mpegts", "mpeg2video", {"g": "12", "bf": "2"}),
    ("mpeg", "mpeg1video", {"g": "12", "bf": "2"}),
    ("mpeg", "mpeg2video", {"g": "12", "bf": "2"}),
    ("vob", "mpeg2video", {"g": "12", "bf": "2"}),
    ("mpeg", "libx264", {"g": "12", "bf": "2"}),  # of which packets lack times
    ("asf", "wmv1", {"g": "12"}),
    ("asf", "wmv2", {"g": "12"}),
    ("asf", "libx264", {"g": "12", "bf": "2"}),  # ASF has no times of presentation
    ("flv", "flv", {"g": "12"}),
    ("flv", "libx264", {"g": "12", "bf": "2"}),
    ("ogg", "libvpx", {"g": "12"}),
    ("3gp", "libx264", {"g": "12", "bf": "2"}),
    ("mov", "mjpeg", {}),
]


def decoded(data):
    """All frames, one after the other, as PyAV gives them."""
    with av.open(io.BytesIO(data)) as container:
        frames = [frame.to_ndarray(format="rgb24", interpolation="BICUBIC") for frame in container.decode(video=0)]
    return torch.from_numpy(np.stack(frames)).permute(3, 0, 1, 2)


def made(kind, codec, options, count=40):
    pixels = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    return encode(numbered(count, 32, 64), kind, codec, pixels, rate=25, **options)


@pytest.mark.parametrize("kept", [2**24, 0])  # bytes of packets in memory, or read again
@pytest.mark.parametrize(("kind", "codec", "options"), KINDS)
def test_frames_are_those_of_a_plain_decode(kind, codec, options, kept, monkeypatch):
    monkeypatch.setattr(video_file, "_KEPT", kept)
    data = made(kind, codec, options)
    wanted = decoded(data)
    reader = VideoReader(data)
    assert reader.frames == wanted.shape[1] == 40
    assert numbers_in(wanted) == [*range(40)]
    assert torch.equal(reader.read(), wanted)
    reader.verify()
    for index in (39, 0, 13, 26, 12, 5):
        assert torch.equal(reader.read([index]), wanted[:, [index]])
    assert torch.equal(reader.read([30, 2, 17, 2]), wanted[:, [30, 2, 17, 2]])
    counted = {("mpeg", "libx264"), ("asf", "libx264")}
    assert (reader._file._index.ticks == []) == ((kind, codec) in counted)
    if (kind, codec) not in counted:
        assert (reader.fps, reader.times) == (pytest.approx(25, rel=1e-3), None)


@pytest.mark.parametrize(("kind", "codec", "options"), [one for one in KINDS if one[0] in ("mpegts", "mpeg", "vob")])
def test_decoding_begins_at_a_key_frame(kind, codec, options, monkeypatch):
    reader = VideoReader(made(kind, codec, options, 100))
    if (kind, codec) == ("mpeg", "libx264"):
        return  # always from the start
    monkeypatch.setattr(video_file.VideoFile, "_open", lambda self: pytest.fail("read from the start"))
    for index in (99, 50, 31, 70):
        assert numbers_in(reader.read([index])) == [index]


@pytest.mark.parametrize(("kind", "codec"), [("asf", "wmv2"), ("mpegts", "mpeg2video"), ("mpegts", "mpeg4")])
@pytest.mark.parametrize("late", [-20, -1, 1, 4])
def test_a_seek_that_lands_elsewhere_costs_time_only(kind, codec, late, monkeypatch):
    """Decoders give frames after a missing key frame too, which look like others."""
    data = made(kind, codec, {"g": "12"}, 60)
    wanted = decoded(data)
    monkeypatch.setattr(video_file, "_KEPT", 0)
    reader = VideoReader(data)
    ticks = reader._file._index.ticks
    sought = []

    def place_of(self, key):
        sought.append(key)
        return key.dts + late * (ticks[1] - ticks[0])

    monkeypatch.setattr(video_file.VideoFile, "_place_of", place_of)
    for index in (59, 30, 45):
        assert torch.equal(reader.read([index]), wanted[:, [index]])
    assert len(sought) == 3


def test_packets_in_memory_are_not_read_again(monkeypatch):
    data = made("mp4", "libx264", {"g": "12", "bf": "2"})
    wanted = decoded(data)
    reader = VideoReader(data)
    for name in ("_open", "_place_of"):
        monkeypatch.setattr(video_file.VideoFile, name, lambda *_: pytest.fail("read again"))
    for frames in ([39], [0, 30], [13, 14]):
        assert torch.equal(reader.read(frames), wanted[:, frames])


@pytest.mark.parametrize(("kind", "codec"), [("mpegts", "libx264"), ("mpegts", "mpeg2video"), ("mpeg", "mpeg2video")])
def test_files_put_one_after_the_other(kind, codec):
    """Their times begin again, as those of recordings that were joined with `cat` do."""
    long, short = (made(kind, codec, {"g": "12", "bf": "2"}, count) for count in (30, 17))
    for data in (long + long, long + short, short + long):
        wanted = decoded(data)
        reader = VideoReader(data)
        assert reader.frames == wanted.shape[1]
        assert torch.equal(reader.read(), wanted)
        assert torch.equal(reader.read([reader.frames - 1, 20]), wanted[:, [-1, 20]])


def test_times_that_run_over(monkeypatch):
    """MPEG counts in 33 bits, which run over after 26.5 hours."""
    start = 2**33 - 90000
    data = encode(
        numbered(50), "mpegts", "libx264", ticks=[start + 3600 * n for n in range(50)], base=Fraction(1, 90000), g="10"
    )
    reader = VideoReader(data)
    assert (reader.frames, reader.fps, reader.times) == (50, pytest.approx(25), None)
    for index in (49, 0, 24, 25, 30):
        assert numbers_in(reader.read([index])) == [index]


@pytest.mark.parametrize("kind", ["mpegts", "mpeg", "asf", "flv", "ogg"])
def test_damage_raises_nothing_but_video_errors(kind):
    codec = {"mpegts": "libx264", "mpeg": "mpeg2video", "asf": "wmv2", "flv": "flv", "ogg": "libvpx"}[kind]
    good = made(kind, codec, {"g": "12"}, 20)
    draw = np.random.default_rng(0)
    for number in range(40):
        data = bytearray(good)
        if number % 2:
            del data[draw.integers(len(data)) :]
        else:
            for place in draw.integers(0, len(data), 1 + number % 7):
                data[place] = draw.integers(256)
        try:
            reader = VideoReader(bytes(data))
            reader.read([0, reader.frames - 1])
            reader.verify()
        except VideoError:
            pass
