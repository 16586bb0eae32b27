"""The decoder alone, on unusual files: crafted, damaged, rotated, odd, expensive and endless ones."""

import io
from fractions import Fraction

import av
import numpy as np
import pytest
import torch
from odd_videos import corners, encode, numbered, numbers_in, sound, still_image
from PIL import Image

from cmd_lightning import video_file
from cmd_lightning.errors import InputError
from cmd_lightning.video_encoding import mp4_bytes
from cmd_lightning.video_file import VideoError
from cmd_lightning.video_io import VideoReader


def damaged():
    """Packets where they should be, of which nothing can be decoded."""
    data = bytearray(encode(numbered(30), "matroska", "mpeg4", g="5"))
    with av.open(io.BytesIO(bytes(data))) as container:
        for packet in container.demux(video=0):
            if packet.size:
                place = bytes(data).find(bytes(packet))
                data[place : place + packet.size] = b"\xff" * packet.size
    return bytes(data)


@pytest.mark.parametrize(
    ("reason", "make"),
    [
        ("empty file", lambda: b""),
        ("unreadable video", lambda: b"this is not a video"),
        ("unreadable video", lambda: mp4_bytes(torch.zeros(3, 4, 16, 16, dtype=torch.uint8), 8)[:400]),
        *(("still image", lambda kind=kind: still_image(kind)) for kind in ("PNG", "JPEG", "WebP", "BMP", "TIFF")),
        ("no video stream", sound),
        ("damaged frames", damaged),
    ],
)
def test_each_fault_has_its_reason(tmp_path, reason, make):
    data = make()
    (tmp_path / "clip.mp4").write_bytes(data)
    for source in (data, tmp_path / "clip.mp4"):
        with pytest.raises(VideoError) as error:
            VideoReader(source).read([0, 1])
        assert error.value.reason == reason
        assert isinstance(error.value, InputError)
        assert "\n" not in str(error.value)
        with pytest.raises(VideoError):
            VideoReader(source).verify()


@pytest.mark.parametrize("kind", ["mp4", "matroska", "avi", "gif"])
def test_damage_of_any_kind_raises_nothing_else(kind):
    codec, pixels = {"gif": ("gif", "rgb8"), "avi": ("mpeg4", "yuv420p")}.get(kind, ("libx264", "yuv420p"))
    good = encode(numbered(20, 32), kind, codec, pixels)
    draw = np.random.default_rng(0)
    seen = set()
    for number in range(150):
        data = bytearray(good)
        if number % 3 == 0:
            del data[draw.integers(len(data)) :]
        else:
            for place in draw.integers(0, 800 if number % 3 == 1 else len(data), 1 + number % 7):
                data[min(place, len(data) - 1)] = draw.integers(256)
        try:
            reader = VideoReader(bytes(data))
            reader.read([0, reader.frames - 1], lambda frames: frames[..., :1, :1])
            reader.verify()
        except VideoError as error:
            seen.add(error.reason)
    assert seen >= {"unreadable video"}


def test_a_path_is_a_file_whatever_it_looks_like(tmp_path, monkeypatch):
    data = encode(numbered(3))
    for name in ("a:b.mp4", "http:x.mp4", "50%.mp4", "clip%03d.mp4", "concat:a|b.mp4"):
        (tmp_path / name).write_bytes(data)
        assert VideoReader(tmp_path / name).frames == 3
        monkeypatch.chdir(tmp_path)
        assert VideoReader(name).read().shape == (3, 3, 16, 64)


@pytest.mark.parametrize("kind", ["mp4", "matroska"])
@pytest.mark.parametrize(
    "rate", [Fraction(24000, 1001), Fraction(25), Fraction(30000, 1001), Fraction(30), Fraction(48)]
)
def test_an_even_rate_is_distinguished_from_the_rounding_of_times(kind, rate):
    ticks = [round(number / rate * 1000) for number in range(100)]
    data = encode(numbered(100), kind, ticks=ticks, preset="ultrafast")
    reader = VideoReader(data)
    assert reader.times is None
    assert reader.fps == pytest.approx(float(rate), rel=1e-3)


def test_a_quarter_turn_clockwise_puts_the_left_edge_on_top():
    """The sign, by hand and apart from torch: PyAV writes what FFmpeg calls a turn by -90 degrees."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=10, options={"crf": "1"})
        stream.height, stream.width, stream.pix_fmt = 24, 40, "yuv420p"
        stream.set_display_rotation(-90)  # "degrees: rotation angle, counterclockwise"
        for still_image in corners():
            container.mux(stream.encode(av.VideoFrame.from_ndarray(still_image, format="rgb24")))
        container.mux(stream.encode(None))
    frame = VideoReader(buffer.getvalue()).read([0])[:, 0].float()
    assert frame.shape == (3, 40, 24)
    blue, red = frame[:, 4, 4], frame[:, 4, 20]  # the lower left corner comes to the upper left
    assert blue.argmax() == 2
    assert red.argmax() == 0
    assert blue[2] > 180
    assert red[0] > 180


def test_grey_is_grey():
    images = np.arange(0, 250, 50, dtype=np.uint8)[:, None, None, None].repeat(33, 1).repeat(17, 2).repeat(3, 3)
    video = VideoReader(encode(images, "matroska", "ffv1", "gray")).read()
    assert (video.float() - torch.from_numpy(images).permute(3, 0, 1, 2).float()).abs().max() <= 2
    assert torch.equal(video[0], video[2])


def test_what_is_seen_through_in_a_gif_keeps_the_frame_before():
    buffer = io.BytesIO()
    first, second = Image.new("RGBA", (8, 8), (200, 0, 0, 255)), Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    second.paste((0, 0, 200, 255), (0, 0, 4, 8))
    first.save(buffer, "GIF", save_all=True, append_images=[second], duration=100, disposal=1)
    video = VideoReader(buffer.getvalue()).read()
    assert video[:, 1, 4, 2].tolist() == [0, 0, 200]
    assert video[:, 1, 4, 6].tolist() == [200, 0, 0]


def an_hour(kind):
    """90,000 frames, made of one group of 50 of which each shows its number."""
    buffer = io.BytesIO()
    with (
        av.open(io.BytesIO(encode(numbered(50), g="50", bf="0"))) as source,
        av.open(buffer, "w", format=kind) as target,
    ):
        stream = target.add_stream_from_template(source.streams.video[0])
        packets = [packet for packet in source.demux(video=0) if packet.size]
        for number in range(90_000):
            packet = av.Packet(bytes(packets[number % 50]))
            packet.stream, packet.time_base = stream, Fraction(1, 25)
            packet.pts = packet.dts = number
            packet.is_keyframe = number % 50 == 0
            target.mux(packet)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["mp4", "matroska"])
def test_an_hour_is_not_decoded_for_a_clip(kind, decoded):
    reader = VideoReader(an_hour(kind))
    assert reader.frames == 90_000
    assert numbers_in(reader.read(range(45_010, 45_026))) == [*range(10, 26)]
    assert len(decoded) <= 26
    decoded.clear()
    assert numbers_in(reader.read(range(7, 16_000, 1001))) == [number % 50 for number in range(7, 16_000, 1001)]
    assert len(decoded) <= sum(number % 50 + 1 for number in range(7, 16_000, 1001))


def test_what_costs_too_much_is_rejected_before_it_is_decoded(decoded, monkeypatch):
    data = encode(numbered(60), g="1000", sc_threshold="0")
    reader = VideoReader(data)
    monkeypatch.setattr(video_file, "MAX_DECODED_PIXELS", 20 * 16 * 64)
    assert numbers_in(reader.read([3, 17])) == [3, 17]
    decoded.clear()
    for wanted in ([40], [0, 59]):
        with pytest.raises(VideoError, match="too costly") as error:
            reader.read(wanted)
        assert error.value.reason == "too costly"
    assert not decoded
    reader.verify()  # whoever asks for all of it gets it


def test_frames_beyond_all_bounds_are_rejected(monkeypatch):
    data = encode(numbered(3, 32))
    monkeypatch.setattr(video_file, "MAX_FRAME_PIXELS", 32 * 64 - 1)
    with pytest.raises(VideoError) as error:
        VideoReader(data).read([0])
    assert error.value.reason == "too costly"
