"""Values of 16 bits, palettes, transparency and EXIF, in videos, in folders of frames and in single images."""

import io
from fractions import Fraction

import av
import numpy as np
import pytest
import torch
from odd_videos import as_ffmpeg_shows, corners
from PIL import Image
from shown_videos import close, palette, ramps

from cmd_lightning.evaluation.clip_files import VideoFolder
from cmd_lightning.image_io import read_image
from cmd_lightning.video_file import VideoError
from cmd_lightning.video_io import VideoReader, read_video
from cmd_lightning.viewing import Viewing

DEEP = [
    ("matroska", "ffv1", "gray16le"),
    ("matroska", "ffv1", "gbrp16le"),
    ("matroska", "ffv1", "gray10le"),
    ("mov", "png", "rgb48be"),
    ("mov", "png", "gray16be"),
    ("mp4", "png", "pal8"),
    ("avi", "png", "pal8"),
    ("avi", "rawvideo", "pal8"),
    ("avi", "zmbv", "pal8"),
    ("mov", "qtrle", "rgb555be"),
    ("mov", "qtrle", "gray"),  # the palette comes with the first packet alone
    ("mov", "qtrle", "argb"),
    ("matroska", "ffv1", "yuv420p10le"),
    ("matroska", "ffv1", "yuv411p"),
    ("matroska", "ffv1", "yuv440p"),
    ("avi", "png", "monob"),
    ("avi", "mjpeg", "yuvj422p"),
]


@pytest.mark.parametrize(("kind", "codec", "pixels"), DEEP)
def test_values_of_any_depth_and_palettes_are_read_as_ffmpeg_does(kind, codec, pixels):
    arrays = ramps() if pixels != "pal8" else ramps() // 51 * 51  # the colours of a fixed palette, about
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=kind) as container:
        stream = container.add_stream(codec, rate=10)
        stream.height, stream.width, stream.pix_fmt = 32, 48, pixels
        for number, frame_array in enumerate(arrays):
            frame = av.VideoFrame.from_ndarray(frame_array, format="rgb24")
            if pixels == "pal8":
                frame = palette(frame_array)
            else:
                frame = frame.reformat(format=pixels)
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    data = buffer.getvalue()
    close(VideoReader(data).read(), as_ffmpeg_shows(data))


def grey16(height=12, width=20):
    return np.linspace(0, 65535, height * width).reshape(height, width).astype(np.uint16)


def test_16_bit_images_are_scaled_in_folders_and_alone(tmp_path):
    for suffix, order in (("png", "<u2"), ("tif", "<u2"), ("tiff", ">u2")):
        folder = tmp_path / suffix
        folder.mkdir()
        for number in range(2):
            Image.fromarray(grey16().astype(order)).save(folder / f"{number}.{suffix}")
        wanted = torch.from_numpy(grey16().astype(np.float32) / 257)
        close(read_video(folder)[0, 1], wanted, 1)
        close(read_image(folder / f"0.{suffix}")[2], wanted, 1)


@pytest.mark.parametrize("pixels", ["rgb48be", "rgba64be", "ya16be", "gray16be", "pal8", "monob", "rgba", "ya8"])
def test_png_folders_agree_with_ffmpeg(tmp_path, pixels):
    """Opaque images from FFmpeg's encoder."""
    frame = palette(ramps()[0]) if pixels == "pal8" else av.VideoFrame.from_ndarray(ramps()[0], format="rgb24")
    context = av.CodecContext.create("png", "w")
    context.width, context.height, context.pix_fmt, context.time_base = 48, 32, pixels, Fraction(1, 10)
    (packet,) = [*context.encode(frame.reformat(format=pixels)), *context.encode(None)]
    (tmp_path / "0.png").write_bytes(bytes(packet))
    decoder = av.CodecContext.create("png", "r")
    (decoded,) = [*decoder.decode(av.Packet(bytes(packet))), *decoder.decode(None)]
    wanted = torch.from_numpy(decoded.to_ndarray(format="rgb24")).permute(2, 0, 1)
    close(read_video(tmp_path)[:, 0], wanted)


def test_a_folder_prefers_png_and_takes_tiff(tmp_path):
    for name, level in (("0.tif", 10), ("1.tif", 20), ("0.png", 30)):
        Image.new("L", (4, 4), level).save(tmp_path / name)
    assert read_video(tmp_path)[0, :, 0, 0].tolist() == [30]
    (tmp_path / "0.png").unlink()
    assert read_video(tmp_path)[0, :, 0, 0].tolist() == [10, 20]


@pytest.mark.parametrize("names", [("0.PNG", "1.png", "2.Png"), ("0.tif", "1.tiff", "2.TIF"), ("0.TIFF", "1.TIFF")])
def test_frames_are_found_in_any_spelling_of_their_suffix(tmp_path, names):
    folder = tmp_path / "frames"
    folder.mkdir()
    for number, name in enumerate(names):
        Image.new("L", (4, 4), 10 * number).save(folder / name)
    (folder / f"._{names[0]}").write_bytes(b"what macOS writes next to a file")
    assert read_video(folder)[0, :, 0, 0].tolist() == [10 * number for number in range(len(names))]
    assert VideoFolder(tmp_path).keys == ["frames"]


def test_images_that_pillow_fails_on_are_video_errors(tmp_path):
    (tmp_path / "0.ppm").write_bytes(b"P6 4x 4 255\n" + bytes(48))  # a ValueError of Pillow's
    (tmp_path / "1.ppm").write_bytes(b"P6 0 4 255\n" + bytes(48))
    (tmp_path / "2.png").write_bytes(b"\x89PNG\r\n\x1a\n\0\0\0\1IHDR")
    for path in tmp_path.iterdir():
        with pytest.raises(VideoError, match="not readable as an image"):
            read_image(path)


@pytest.mark.parametrize("mode", ["I", "F"])
def test_32_bit_images_are_rejected(tmp_path, mode):
    Image.new(mode, (4, 4), 1000).save(tmp_path / "0.tif")
    with pytest.raises(VideoError, match="32 bits"):
        read_video(tmp_path)


@pytest.mark.parametrize("mode", ["P", "RGBA", "LA", "PA", "RGB", "L", "1"])
def test_transparent_images_show_the_background(tmp_path, mode):
    colour = {"P": 1, "1": 1, "RGBA": (0, 90, 0, 0), "LA": (90, 0), "PA": (1, 0), "RGB": (0, 90, 0), "L": 90}[mode]
    image = Image.new(mode, (4, 4), colour)
    if mode == "PA":
        image = image.convert("RGBA")
    if mode == "P":
        image = Image.new("RGB", (4, 4), (0, 90, 0)).quantize(2)
    key = {"P": image.getpixel((0, 0)), "RGB": (0, 90, 0), "L": 90, "1": 255}.get(mode)
    image.save(tmp_path / "0.png", **({} if key is None else {"transparency": key}))
    for background, wanted in (("white", [255] * 3), ("#010203", [1, 2, 3])):
        assert read_image(tmp_path / "0.png", background)[:, 0, 0].tolist() == wanted
        assert read_video(tmp_path, viewing=Viewing(background=background))[:, 0, 0, 0].tolist() == wanted


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
    ("suffix", "deep"), [*((name, False) for name in ("jpg", "png", "tif", "webp")), ("png", True), ("tif", True)]
)
def test_images_are_turned_as_exif_says(tmp_path, orientation, suffix, deep):
    """The stored image that orientation n turns upright, by the table of EXIF 2.3."""
    upright = corners()[0] if not deep else (corners()[0, ..., 0] // 2 + corners()[0, ..., 1]).astype(np.uint16) * 257
    axes = (1, 0, 2)[: upright.ndim]
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(axes),
        6: np.rot90(upright),  # counterclockwise, to be shown clockwise
        7: upright[::-1, ::-1].transpose(axes),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"0.{suffix}"
    Image.fromarray(np.ascontiguousarray(stored)).save(path, exif=exif, quality=95)
    wanted = torch.from_numpy(upright / 257.0 if deep else upright.astype(float))
    wanted = wanted.expand(3, -1, -1) if deep else wanted.permute(2, 0, 1)
    shown = [read_image(path)] + ([read_video(tmp_path)[:, 0]] if suffix in ("png", "tif") else [])
    for image in shown:
        assert image.shape == wanted.shape
        assert (image.float() - wanted).abs().mean() < 12
