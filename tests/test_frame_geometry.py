"""Pixel shapes, cropping by containers, and the choice of a track; compared with FFmpeg's filters."""

import io
import struct
from fractions import Fraction

import av
import numpy as np
import pytest
from odd_videos import as_ffmpeg_shows, numbered, numbers_in
from shown_videos import close, coded, ramps, tagged

from cmd_lightning import video_file
from cmd_lightning.video_file import VideoError
from cmd_lightning.video_io import VideoReader

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
def test_pixels_of_absurd_shape_are_rejected(aspect, monkeypatch):
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
    """An mkv of several tracks: (images, whether it is the default)."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="matroska") as container:
        streams = []
        for images, default in tracks:
            stream = container.add_stream("ffv1", rate=10)
            stream.height, stream.width = images[0].shape[:2]
            stream.pix_fmt = "bgr0"
            stream.disposition = av.stream.Disposition.default if default else av.stream.Disposition(0)
            streams.append(stream)
        for stream, (images, _) in zip(streams, tracks, strict=True):
            for image in images:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
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
    assert VideoReader(data).info == reader.info
    assert numbers_in(reader.read()) == [*range(3 + number)]
