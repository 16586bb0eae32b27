"""Interlaced, HDR and transparent frames, compared with FFmpeg's own filters and with formulas."""

import io

import av
import numpy as np
import pytest
import torch
from odd_videos import as_ffmpeg_shows
from PIL import Image
from shown_videos import bright, close, coded, fields, glass, ramps, tagged

from cmd_lightning import viewing
from cmd_lightning.errors import InputError
from cmd_lightning.video_io import VideoReader, read_video
from cmd_lightning.viewing import Viewing

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


ALPHA = [
    ("matroska", "ffv1", "bgra", {}, 2),
    ("matroska", "ffv1", "rgba64le", {}, 2),
    ("mp4", "png", "rgba", {}, 2),
    ("mov", "qtrle", "argb", {}, 2),
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
