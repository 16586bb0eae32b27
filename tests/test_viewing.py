"""Frames as they are meant to be seen, compared with FFmpeg's own filters and with formulas."""

import contextlib
import io
import struct
from fractions import Fraction

import av
import numpy as np
import pytest
import torch
from odd_videos import as_ffmpeg_shows, corners, encode, numbered, numbers_in
from PIL import Image

from cmd_lightning import video_file, viewing
from cmd_lightning.errors import InputError
from cmd_lightning.image_io import read_image
from cmd_lightning.video_file import VideoError
from cmd_lightning.video_io import VideoReader, gif_bytes, mp4_bytes, read_video
from cmd_lightning.viewing import Viewing


def close(video, wanted, levels=2):
    assert video.shape == wanted.shape
    assert (video.float() - wanted.float()).abs().max() <= levels


def coded(pictures, kind="mp4", codec="libx264", pixels="yuv420p", prepare=None, rate=10, **options):
    """Pictures (T, H, W, 3 or 4) encoded apart from the project; `prepare` sets up the stream."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=kind) as container:
        stream = container.add_stream(codec, rate=rate, options=options)
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = pixels
        if prepare:
            prepare(stream)
        for picture in pictures:
            layout = "rgba" if picture.shape[2] == 4 else "rgb24"
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format=layout)
            container.mux(stream.encode(frame.reformat(format=pixels)))
        container.mux(stream.encode(None))
    return buffer.getvalue()


def ramps(frames=3, height=32, width=48):
    y, x = np.mgrid[:height, :width]
    first = np.stack([4 * x + 20, 5 * y + 30, 200 - 2 * x], -1).clip(0, 255).astype(np.uint8)
    return np.stack([np.roll(first, 2 * n, 0) for n in range(frames)])


# The shape of pixels, and what a container cuts off


@pytest.mark.parametrize("aspect", ["2", "1/2", "128/117", "16/11", "10/11"])
@pytest.mark.parametrize(("kind", "codec"), [("mp4", "libx264"), ("matroska", "libx264"), ("avi", "mpeg4")])
def test_pixels_that_are_not_square_are_stretched_as_ffmpeg_does(aspect, kind, codec):
    def prepare(stream):
        stream.codec_context.sample_aspect_ratio = Fraction(aspect)

    data = coded(ramps(), kind, codec, prepare=prepare)
    reader = VideoReader(data)
    assert (reader.info.width, reader.info.height) == (int(48 * Fraction(aspect)), 32)
    close(reader.read(), as_ffmpeg_shows(data))


def test_a_disc_is_round_also_turned():
    y, x = np.mgrid[:64, :32]
    disc = np.where((2 * x - 32) ** 2 + (y - 32) ** 2 < 24**2, 255, 0).astype(np.uint8)[None, ..., None]

    def prepare(stream):
        stream.codec_context.sample_aspect_ratio = Fraction(2)

    def turned(stream):
        prepare(stream)
        stream.set_display_rotation(-90)

    upright = VideoReader(coded(disc.repeat(2, 0).repeat(3, 3), prepare=prepare)).read([0])[0, 0] > 128
    assert upright.any(0).sum() == pytest.approx(48, abs=2) == upright.any(1).sum()
    side = VideoReader(coded(disc.repeat(2, 0).repeat(3, 3), prepare=turned)).read([0])[0, 0] > 128
    assert side.shape == (32, 32)[::-1]  # of what FFmpeg turns first: 64x32 pixels that are half as wide as high
    assert side.any(0).sum() == pytest.approx(24, abs=2) == side.any(1).sum()


@pytest.mark.parametrize("aspect", ["20", "1/20"])
def test_pixels_of_absurd_shape_are_refused(aspect, monkeypatch):
    monkeypatch.setattr(video_file, "MAX_FRAME_PIXELS", 10 * 48 * 32)

    def prepare(stream):
        stream.codec_context.sample_aspect_ratio = Fraction(aspect)

    with pytest.raises(VideoError) as error:
        VideoReader(coded(ramps(), prepare=prepare)).read([0])
    assert error.value.reason == "too costly"


def with_clap(data, left, right, top, bottom, height=32, width=48):
    """An mp4 of which the header says, with a box "clap", what is cut off: apart from FFmpeg, by ISO 14496-12."""
    chain, place = [], 0
    for name, skip in (
        (b"moov", 8),
        (b"trak", 8),
        (b"mdia", 8),
        (b"minf", 8),
        (b"stbl", 8),
        (b"stsd", 16),
        (b"avc1", 0),
    ):
        while data[place + 4 : place + 8] != name:
            place += int.from_bytes(data[place : place + 4], "big")
        chain.append(place)
        place += skip
    size = width - left - right, height - top - bottom
    offset = left - right, top - bottom  # of the middles, in halves
    box = struct.pack(">I4s8i", 40, b"clap", size[0], 1, size[1], 1, offset[0], 2, offset[1], 2)
    changed = bytearray(data)
    for place in chain:
        changed[place : place + 4] = (int.from_bytes(data[place : place + 4], "big") + 40).to_bytes(4, "big")
    end = chain[-1] + int.from_bytes(data[chain[-1] : chain[-1] + 4], "big")
    return bytes(changed[:end] + box + changed[end:])


def with_pixel_crop(data, left, right, top, bottom):
    """A Matroska file whose element Colour made way for PixelCropLeft and so on."""
    place = data.index(b"\x55\xb0")
    room = 3 + (data[place + 2] & 127)
    cuts = {0x54CC: left, 0x54DD: right, 0x54BB: top, 0x54AA: bottom}
    crop = b"".join(struct.pack(">HBB", name, 0x81, value) for name, value in cuts.items())
    void = b"\xec" + bytes([0x80 | room - len(crop) - 2]) + bytes(room - len(crop) - 2)
    return data[:place] + crop + void + data[place + room :]


def tagged(stream):
    codec = stream.codec_context
    codec.colorspace = codec.color_primaries = codec.color_trc = codec.color_range = 1


@pytest.mark.parametrize("cut", [(6, 8, 2, 4), (0, 0, 0, 2), (16, 0, 0, 0), (3, 1, 5, 7)])
@pytest.mark.parametrize("kind", ["mp4", "matroska"])
def test_what_the_container_cuts_off_is_not_shown(kind, cut):
    data = coded(ramps(), kind, prepare=tagged, crf="1")
    whole = VideoReader(data).read()
    left, right, top, bottom = cut
    cropped = VideoReader({"mp4": with_clap, "matroska": with_pixel_crop}[kind](data, *cut))
    wanted = whole[:, :, top : 32 - bottom, left : 48 - right]
    assert (cropped.info.height, cropped.info.width) == tuple(wanted.shape[2:])
    inner = (..., slice(2, -2), slice(2, -2))  # colours at the edges are interpolated
    close(cropped.read()[inner], wanted[inner], 6)


def test_text_is_not_a_crop():
    data = coded(ramps(), "matroska", prepare=tagged)
    buffer = io.BytesIO()
    with av.open(io.BytesIO(data)) as source, av.open(buffer, "w", format="matroska") as target:
        target.metadata["title"] = "x\n  Stream #0:0: Video\n    Side data:\n      Frame Cropping: 9/9/9/9\n"
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = stream
                target.mux(packet)
    assert VideoReader(buffer.getvalue()).info.width == 48


# Which stream


def several(*tracks):
    """An mkv of several tracks: (pictures, whether it is the default)."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="matroska") as container:
        streams = []
        for pictures, default in tracks:
            stream = container.add_stream("ffv1", rate=10)
            stream.height, stream.width = pictures[0].shape[:2]
            stream.pix_fmt = "bgr0"
            stream.disposition = av.stream.Disposition.default if default else av.stream.Disposition(0)
            streams.append(stream)
        for stream, (pictures, _) in zip(streams, tracks, strict=True):
            for picture in pictures:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            container.mux(stream.encode(None))
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("tracks", "wanted"),
    [
        ([(16, False), (32, True)], 32),
        ([(32, False), (16, True)], 16),
        ([(16, True), (32, False), (48, False)], 16),
        ([(16, True), (32, True)], 32),
        ([(16, False), (48, False), (32, False)], 48),
    ],
)
def test_the_default_track_is_shown_and_of_several_the_largest(tracks, wanted):
    data = several(*[(numbered(3 + n, height), default) for n, (height, default) in enumerate(tracks)])
    reader = VideoReader(data)
    number = [height for height, _ in tracks].index(wanted)
    assert (reader.info.frames, reader.info.height) == (3 + number, wanted)
    assert numbers_in(reader.read()) == [*range(3 + number)]


# Where a file begins, and ends


def cut(data, source_kind, kind, start, end=None):
    """Packets of a file from one to another, copied as they are, as tools that cut without encoding do."""
    buffer = io.BytesIO()
    with av.open(io.BytesIO(data), format=source_kind) as source, av.open(buffer, "w", format=kind) as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        packets = [packet for packet in source.demux(video=0) if packet.size][start:end]
        first = min(packet.dts for packet in packets)
        for packet in packets:
            packet.stream, packet.pts, packet.dts = stream, packet.pts - first, packet.dts - first
            target.mux(packet)
    return buffer.getvalue()


OPEN = "open-gop=1:keyint=10:min-keyint=10:bframes=3:scenecut=0:b-adapt=0"
CUTS = [  # codec, options, first packet: key frames are about every tenth
    ("libx264", {"g": "10", "bf": "2", "sc_threshold": "0"}, 7),
    ("libx264", {"x264-params": OPEN}, 10),
    ("libx264", {"x264-params": OPEN}, 16),
    ("libx265", {"x265-params": OPEN + ":log-level=none"}, 10),
    ("libx265", {"x265-params": OPEN + ":log-level=none"}, 13),
    ("mpeg4", {"g": "10", "bf": "2"}, 4),
    ("mpeg2video", {"g": "10", "bf": "2", "sc_threshold": "1000000000"}, 10),
    ("libvpx-vp9", {"g": "10", "deadline": "realtime", "cpu-used": "8"}, 5),
]


@pytest.mark.parametrize("end", [None, -3])
@pytest.mark.parametrize("kind", ["mp4", "matroska", "avi"])
@pytest.mark.parametrize(("codec", "options", "start"), CUTS)
def test_a_file_that_is_cut_anywhere_has_the_frames_that_ffmpeg_decodes(codec, options, start, kind, end):
    if kind == "avi" and codec != "mpeg4":
        pytest.skip("others with B-frames are not written to AVI")
    data = cut(encode(numbered(32, 64), "matroska", codec, **options), "matroska", kind, start, end)
    frames = {}
    with av.open(io.BytesIO(data)) as container:
        for packet in container.demux(video=0):
            with contextlib.suppress(av.error.InvalidDataError):  # which FFmpeg reports, to go on
                for frame in packet.decode():
                    time = len(frames) if kind == "avi" else frame.pts
                    if time > max(frames, default=-1):  # FFmpeg drops what comes late
                        frames[time] = frame.to_ndarray(format="rgb24")
    wanted = torch.from_numpy(np.stack([*frames.values()])).permute(3, 0, 1, 2)
    reader = VideoReader(data)
    assert reader.frames == wanted.shape[1]
    assert torch.equal(reader.read(), wanted)
    reader.verify()
    for index in range(0, reader.frames, 6):
        assert torch.equal(reader.read([index]), wanted[:, [index]])


# Fields, light, transparency


def fields(count=8, height=32, width=48):
    """Interlaced pictures of a bar that moves: even lines show a time, odd lines half a frame later."""
    pictures = np.full((count, height, width, 3), 40, np.uint8)
    for number in range(count):
        for line in range(height):
            left = 4 + 4 * number + 2 * (line % 2)
            pictures[number, line, left : left + 8] = 220
    return pictures


INTERLACED = [
    ("mp4", "libx264", {"x264-params": "tff=1", "crf": "5"}),
    ("matroska", "libx264", {"x264-params": "bff=1", "crf": "5", "g": "3", "bf": "2"}),
    ("matroska", "mpeg2video", {"flags": "+ildct+ilme", "qmin": "1", "q": "1", "g": "4"}),
    ("avi", "mpeg4", {"flags": "+ildct+ilme", "qmin": "1"}),
]


@pytest.mark.parametrize(("kind", "codec", "options"), INTERLACED)
def test_fields_are_deinterlaced_on_request_as_ffmpeg_does(kind, codec, options):
    data = coded(fields(), kind, codec, **options)
    plain = VideoReader(data)
    assert plain.info.interlaced
    close(plain.read(), as_ffmpeg_shows(data), 0)
    reader = VideoReader(data, Viewing(deinterlace=True))
    wanted = as_ffmpeg_shows(data, ("bwdif", "mode=send_frame:deint=interlaced"))
    assert (wanted.float() - plain.read().float()).abs().max() > 50
    close(reader.read(), wanted)
    for numbers in ([0], [7], [3], [1, 2, 6], [5, 0, 5]):
        close(VideoReader(data, Viewing(deinterlace=True)).read(numbers), wanted[:, numbers])


def test_progressive_frames_stay_as_they_are():
    data = coded(ramps(6))
    assert not VideoReader(data).info.interlaced
    assert torch.equal(read_video(data, viewing=Viewing(deinterlace=True)), read_video(data))


def pq(nits):
    """The code value, 0 to 1, of light by SMPTE ST 2084."""
    light = np.asarray(nits, float) / 10000
    power = light ** (2610 / 16384)
    return ((3424 / 4096 + 2413 / 128 * power) / (1 + 2392 / 128 * power)) ** (2523 / 32)


def bright(transfer, codec="libx265", kind="matroska", primaries=9):
    """Patches of light, 10 bits: greys of 0 to 10,000 nits in PQ or 0 to 1 in HLG, and colours."""
    codes = pq([0, 1, 10, 50, 100, 203, 1000, 10000]) if transfer == 16 else np.linspace(0, 1, 8)
    patches = np.stack([codes] * 3, -1)
    patches = np.concatenate([patches, np.eye(3) * 0.6, 0.6 - np.eye(3) * 0.4])
    picture = (np.rint(patches * 65535).astype(np.uint16))[None].repeat(32, 1).repeat(16, 0)

    def prepare(stream):
        codec = stream.codec_context
        codec.colorspace, codec.color_primaries, codec.color_trc, codec.color_range = 9, primaries, transfer, 1

    buffer = io.BytesIO()
    with av.open(buffer, "w", format=kind) as container:
        options = {"libx265": {"x265-params": "lossless=1:log-level=none"}, "libx264": {"crf": "1"}}[codec]
        stream = container.add_stream(codec, rate=10, options=options)
        stream.height, stream.width, stream.pix_fmt = 16, picture.shape[1], "yuv444p10le"
        prepare(stream)
        for _ in range(2):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb48le")
            container.mux(stream.encode(frame.reformat(format="yuv444p10le", dst_colorspace=9, dst_color_range=1)))
        container.mux(stream.encode(None))
    return buffer.getvalue()


MAPPING = "scale", "out_primaries=bt709:out_transfer=bt709:intent=perceptual:flags=bicubic"


@pytest.mark.slow  # FFmpeg computes its table of colours for seconds
@pytest.mark.parametrize("transfer", [16, 18])
def test_hdr_is_mapped_on_request_as_ffmpeg_does(transfer):
    data = bright(transfer)
    mapped = VideoReader(data, Viewing(tone_map=True)).read()
    close(mapped, as_ffmpeg_shows(data, MAPPING))
    assert (mapped[:, :, 8, 16:256:32].diff(dim=-1) >= 0).all()  # more light is never darker


@pytest.mark.parametrize(("transfer", "codec", "kind"), [(16, "libx265", "mp4"), (18, "libx264", "matroska")])
def test_hdr_is_reported_and_mapped_by_a_table_of_its_kind(monkeypatch, transfer, codec, kind):
    data = bright(transfer, codec, kind)
    plain = VideoReader(data)
    assert plain.info.hdr
    close(plain.read(), as_ffmpeg_shows(data), 0)
    asked = []

    def inverted(*of):
        asked.append(of)
        levels = np.linspace(65535, 0, 16).round().astype(np.uint16)
        blue, green, red = np.meshgrid(levels, levels, levels, indexing="ij")
        points = np.stack([red, green, blue], -1).reshape(64, 64, 3)
        frame = av.VideoFrame.from_ndarray(points, format="rgb48le")
        frame.pts = 0
        return frame

    monkeypatch.setattr(viewing, "tone_table", inverted)
    reader = VideoReader(data, Viewing(tone_map=True))
    close(reader.read(), 255 - plain.read())
    close(reader.read([1, 0]), 255 - plain.read([1, 0]))
    assert {*asked} == {(transfer, 9)}
    ordinary = coded(ramps(), prepare=tagged)
    assert not VideoReader(ordinary).info.hdr
    assert torch.equal(read_video(ordinary, viewing=Viewing(tone_map=True)), read_video(ordinary))


def glass(frames=3, height=16, width=24):
    """Pictures (T, H, W, 4): a third opaque, a third half transparent, a third clear over colours nobody should see."""
    pictures = np.zeros((frames, height, width, 4), np.uint8)
    pictures[..., :3] = 200, 40, 10
    pictures[..., 3] = np.repeat([255, 128, 0], 8)
    pictures[:, :, 16:, :3] = 0, 255, 0
    return pictures


ALPHA = [
    ("matroska", "ffv1", "bgra", {}, 2),
    ("matroska", "ffv1", "rgba64le", {}, 2),
    ("mp4", "png", "rgba", {}, 2),
    ("mov", "qtrle", "argb", {}, 2),
    ("mov", "prores_ks", "yuva444p10le", {"profile": "4444"}, 5),
    ("webm", "libvpx-vp9", "yuva420p", {"lossless": "1"}, 9),
    ("webm", "libvpx", "yuva420p", {"auto-alt-ref": "0", "crf": "4", "b": "1M"}, 9),
]


@pytest.mark.parametrize(("kind", "codec", "pixels", "options", "allowed"), ALPHA)
@pytest.mark.parametrize("background", [None, "black", "#1e90ff"])
def test_what_is_transparent_shows_the_background(kind, codec, pixels, options, allowed, background):
    data = coded(glass(), kind, codec, pixels, **options)
    behind = {None: (255, 255, 255), "black": (0, 0, 0), "#1e90ff": (30, 144, 255)}[background]
    reader = VideoReader(data, Viewing(background=background)) if background else VideoReader(data)
    assert reader.info.transparent
    share = np.repeat([255, 128, 0], 8)[None, None, :, None] / 255
    wanted = glass()[..., :3] * share + np.array(behind) * (1 - share)
    middle = (..., [2, 4, 12, 20])  # away from the edges, where codecs blur
    close(reader.read()[middle], torch.from_numpy(wanted).permute(3, 0, 1, 2)[middle], allowed)


def test_a_gif_without_a_first_background_shows_the_chosen_one():
    buffer = io.BytesIO()
    first = Image.fromarray(np.where(glass(1)[0, ..., 3:] > 200, glass(1)[0], 0).astype(np.uint8))
    first.save(
        buffer, "GIF", save_all=True, append_images=[first.transpose(Image.Transpose.FLIP_TOP_BOTTOM)], disposal=2
    )
    video = read_video(buffer.getvalue(), viewing=Viewing(background="blue"))
    assert video[:, 0, 8, 20].tolist() == [0, 0, 255]
    assert abs(video[0, 0, 8, 4].item() - 200) <= 4
    assert read_video(buffer.getvalue())[:, 0, 8, 20].tolist() == [255, 255, 255]


@pytest.mark.parametrize("name", ["", "bleu", "#12", "1,2,3"])
def test_a_background_is_a_colour(name):
    with pytest.raises(InputError, match="not a colour"):
        Viewing(background=name)


# 16 bits, palettes, and still images

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
    ("avi", "png", "monob"),
    ("avi", "mjpeg", "yuvj422p"),
]


@pytest.mark.parametrize(("kind", "codec", "pixels"), DEEP)
def test_values_of_any_depth_and_palettes_are_read_as_ffmpeg_does(kind, codec, pixels):
    pictures = ramps() if pixels != "pal8" else ramps() // 51 * 51  # the colours of a fixed palette, about
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=kind) as container:
        stream = container.add_stream(codec, rate=10)
        stream.height, stream.width, stream.pix_fmt = 32, 48, pixels
        for number, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            if pixels == "pal8":
                frame = palette(picture)
            else:
                frame = frame.reformat(format=pixels)
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    data = buffer.getvalue()
    close(VideoReader(data).read(), as_ffmpeg_shows(data))


def palette(picture):
    """A frame with a palette of greys and the reds of a picture as indices."""
    frame = av.VideoFrame(picture.shape[1], picture.shape[0], "pal8")
    colours = np.stack([np.arange(256), 255 - np.arange(256), np.full(256, 90), np.full(256, 255)], -1)
    frame.planes[1].update(np.ascontiguousarray(colours.astype(np.uint8)).tobytes())
    rows = np.zeros((picture.shape[0], frame.planes[0].line_size), np.uint8)
    rows[:, : picture.shape[1]] = picture[..., 0]
    frame.planes[0].update(rows.tobytes())
    return frame


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
    """Pictures that FFmpeg's encoder wrote, opaque."""
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


@pytest.mark.parametrize("mode", ["I", "F"])
def test_32_bit_images_are_refused(tmp_path, mode):
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
@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
def test_images_are_turned_as_exif_says(tmp_path, orientation, suffix):
    """The stored picture that orientation n turns upright, by EXIF 2.3's table."""
    upright = corners()[0]
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright),  # counterclockwise, to be shown clockwise
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"0.{suffix}"
    Image.fromarray(np.ascontiguousarray(stored)).save(path, exif=exif, quality=95)
    wanted = torch.from_numpy(upright).permute(2, 0, 1).float()
    shown = [read_image(path)] + ([read_video(tmp_path)[:, 0]] if suffix in ("png", "tif") else [])
    for image in shown:
        assert image.shape == wanted.shape
        assert (image.float() - wanted).abs().mean() < 12


# What is written


@pytest.mark.parametrize("size", [(64, 64), (480, 854), (719, 1280), (720, 1280), (1080, 64), (722, 30)])
def test_the_matrix_of_an_mp4_is_the_one_that_its_tag_names(size):
    colours = np.array([[230, 30, 30], [20, 200, 60], [30, 40, 220], [128, 128, 128], [250, 240, 20]], np.uint8)
    for colour in colours:
        video = torch.from_numpy(colour)[:, None, None, None].repeat(1, 1, *size)
        with av.open(io.BytesIO(mp4_bytes(video, 8, preset="ultrafast"))) as container:
            codec = container.streams.video[0].codec_context
            frame = next(container.decode(video=0))
        red, blue = {1: (0.2126, 0.0722), 6: (0.299, 0.114)}[codec.colorspace]  # BT.709, BT.601 (SMPTE 170M)
        assert (codec.colorspace == 1) == (size[0] >= 720)
        assert (codec.color_range, codec.color_primaries, codec.color_trc) == (1, 1, 1)
        y, cb, cr = (bytes(plane)[0] for plane in frame.planes)
        r, g, b = colour / 255
        luma = red * r + (1 - red - blue) * g + blue * b
        wanted = 16 + 219 * luma, 128 + 112 * (b - luma) / (1 - blue), 128 + 112 * (r - luma) / (1 - red)
        assert (y, cb, cr) == pytest.approx(wanted, abs=2)


@pytest.mark.parametrize("fps", [0.5, 7, 8, 12, 23.976, 24, 30, 33, 48, 49.9, 50, 51, 60, 75, 100, 240])
def test_gifs_play_at_their_rate_in_browsers(fps):
    """Browsers show what lasts less than two hundredths of a second for ten."""
    video = torch.randint(0, 256, (3, 120, 4, 4), dtype=torch.uint8)
    with contextlib.nullcontext() if fps <= 50 else pytest.warns(UserWarning, match=f"fps {fps:g}.*50"):
        data = gif_bytes(video, fps)
    durations = []
    with Image.open(io.BytesIO(data)) as image:
        for number in range(image.n_frames):
            image.seek(number)
            durations.append(image.info["duration"])
    assert min(durations) >= 20
    assert sum(durations) / 1000 == pytest.approx(120 / fps, abs=0.011)
    assert len(durations) == (120 if fps <= 50 else round(120 * 50 / fps))


def test_a_gif_cannot_be_slower_than_its_clock():
    with pytest.raises(InputError, match="655"):
        gif_bytes(torch.zeros(3, 2, 4, 4, dtype=torch.uint8), 0.001)
