"""Animated PNG and WebP files: frames, times and errors, compared with another reader."""

import io
import struct
import zlib

import numpy as np
import pytest
import torch
from odd_videos import numbered, numbers_in, still_image
from PIL import Image

from cmd_lightning.animation import is_animation
from cmd_lightning.data.clips import ClipLoader
from cmd_lightning.video_file import VideoError
from cmd_lightning.video_io import VideoReader, read_video
from cmd_lightning.viewing import Viewing


def animated(arrays, kind="WEBP", duration=100, **options):
    """Bytes of an animation of uint8 (T, H, W, 3 or 4), as Pillow writes it."""
    images = [Image.fromarray(one) for one in arrays]
    if kind == "WEBP":
        options = {"lossless": True, "exact": True, **options}
    buffer = io.BytesIO()
    images[0].save(buffer, kind, save_all=True, append_images=images[1:], duration=duration, loop=0, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["WEBP", "PNG"])
def test_frames_and_times_are_those_that_were_written(tmp_path, kind):
    arrays = numbered(9)
    data = animated(arrays, kind, [40, 80, 120, 40, 40, 200, 40, 40, 500])
    (tmp_path / "a.mp4").write_bytes(data)  # whatever the name says
    for source in (data, tmp_path / "a.mp4"):
        reader = VideoReader(source)
        assert torch.equal(reader.read(), torch.from_numpy(arrays).permute(3, 0, 1, 2))
        assert reader.times == pytest.approx([0, 0.04, 0.12, 0.24, 0.28, 0.32, 0.52, 0.56, 0.6])
        assert reader.fps == pytest.approx(8 / 0.6)
        assert numbers_in(reader.read([7, 2, 2])) == [7, 2, 2]
        reader.verify()
    even = VideoReader(animated(arrays, kind, 83))
    assert (even.times, even.fps) == (None, pytest.approx(1 / 0.083))
    sampled = ClipLoader(4, (16, 64), fps=5)({"__key__": "a", "apng": data}, 0)
    assert numbers_in(sampled["video"]) == [0, 3, 5, 8]  # at 0, 0.2, 0.4 and 0.6 seconds; of two as near the later


def test_frames_without_a_duration_last_a_moment():
    data = bytearray(animated(numbered(4), duration=40))
    place = data.find(b"ANMF", data.find(b"ANMF") + 1)
    data[place + 20 : place + 23] = bytes(3)
    assert VideoReader(bytes(data)).times == pytest.approx([0, 0.04, 0.14, 0.18])
    assert VideoReader(animated(numbered(4), "PNG", 0)).fps == pytest.approx(15)  # FFmpeg's


@pytest.mark.parametrize("disposal", [0, 1, 2])
@pytest.mark.parametrize("blend", [0, 1])
def test_frames_build_on_each_other_as_specified(disposal, blend):
    """A dot that moves over a pattern, of which only what changes is stored."""
    arrays = np.zeros((6, 24, 32, 4), np.uint8)
    arrays[..., 3] = 255
    arrays[:, ::2, ::3, 0] = 200
    for number in range(6):
        arrays[number, 4:9, 4 * number : 4 * number + 6] = (0, 250, 40 * number, 255 if number % 2 else 0)
    data = animated(arrays, "PNG", disposal=disposal, blend=blend)
    wanted = composed(data)
    alpha = wanted[..., 3:] / 255
    for background, colour in (("white", 255), ("black", 0)):
        shown = torch.from_numpy(wanted[..., :3] * alpha + colour * (1 - alpha)).permute(3, 0, 1, 2)
        reader = VideoReader(data, Viewing(background=background))
        assert (reader.read() - shown).abs().max() <= 1
        assert reader.info.transparent == bool((wanted[0, ..., 3] < 255).any())
        assert torch.equal(reader.read([4]), reader.read()[:, [4]])


def composed(data):
    """The frames of an animated PNG as its specification composes them: RGBA (T, H, W, 4)."""
    place, header, frames = 8, b"", []
    while place < len(data):
        length, kind = struct.unpack(">I4s", data[place : place + 8])
        body = data[place + 8 : place + 8 + length]
        place += 12 + length
        if kind == b"IHDR":
            header = body
        elif kind == b"fcTL":
            frames.append([struct.unpack(">5I", body[:20])[1:], body[24], body[25], b""])
        elif kind in (b"IDAT", b"fdAT"):
            frames[-1][-1] += body if kind == b"IDAT" else body[4:]
    width, height = struct.unpack(">II", header[:8])
    canvas, shown = np.zeros((height, width, 4)), []
    for number, ((w, h, x, y), disposal, blend, packed) in enumerate(frames):
        parts = [(b"IHDR", struct.pack(">II", w, h) + header[8:]), (b"IDAT", packed), (b"IEND", b"")]
        still = b"\x89PNG\r\n\x1a\n" + b"".join(
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
            for kind, body in parts
        )
        new = np.array(Image.open(io.BytesIO(still)).convert("RGBA")).astype(float)
        before, here = canvas.copy(), canvas[y : y + h, x : x + w]
        if blend:
            above, below = new[..., 3:] / 255, here[..., 3:] / 255 * (1 - new[..., 3:] / 255)
            colours = (new[..., :3] * above + here[..., :3] * below) / np.maximum(above + below, 1e-9)
            new = np.concatenate([colours, 255 * (above + below)], -1)
        here[:] = new
        shown.append(canvas.copy())
        if disposal == 1 or (disposal == 2 and number == 0):
            here[:] = 0
        elif disposal == 2:
            canvas = before
    return np.stack(shown)


def test_an_image_for_programs_without_animation_is_not_a_frame():
    first, *others = (Image.fromarray(one) for one in numbered(5))
    buffer = io.BytesIO()
    first.save(buffer, "PNG", save_all=True, append_images=others, duration=50, default_image=True)
    reader = VideoReader(buffer.getvalue())
    assert numbers_in(reader.read()) == [1, 2, 3, 4]
    assert reader.fps == 20


@pytest.mark.parametrize("kind", ["WEBP", "PNG", "GIF", "JPEG"])
def test_still_images_are_no_animations(tmp_path, kind):
    for number, data in enumerate([still_image(kind), animated(numbered(1)), b"\x89PNG\r\n\x1a\n\0\0", b"RIFF"]):
        (tmp_path / str(number)).write_bytes(data)
        assert not is_animation(tmp_path / str(number))
    for animation in ("WEBP", "PNG"):
        (tmp_path / "a").write_bytes(animated(numbered(2), animation))
        assert is_animation(tmp_path / "a")
    if kind != "GIF":
        with pytest.raises(VideoError, match="still image"):
            VideoReader(still_image(kind))


@pytest.mark.parametrize("kind", ["WEBP", "PNG"])
def test_damaged_animations_raise_nothing_but_video_errors(kind):
    good = animated(numbered(6), kind)
    draw = np.random.default_rng(0)
    reasons = set()
    for number in range(120):
        data = bytearray(good)
        if number % 2:
            del data[draw.integers(12, len(data)) :]
        else:
            for place in draw.integers(8, len(data), 1 + number % 9):
                data[place] = draw.integers(256)
        try:
            VideoReader(bytes(data)).verify()
        except VideoError as error:
            reasons.add(error.reason)
    assert {"damaged frames"} <= reasons
    huge = bytearray(animated(numbered(2)))
    huge[24:30] = b"\xff" * 6
    with pytest.raises(VideoError, match="too costly"):
        VideoReader(bytes(huge))


def test_animations_in_folders(tmp_path):
    (tmp_path / "a.webp").write_bytes(animated(numbered(3)))
    assert read_video(tmp_path / "a.webp").shape == (3, 3, 16, 64)
