"""Colour tags of mp4 files and durations of GIF frames, as players see them."""

import contextlib
import io

import av
import numpy as np
import pytest
import torch
from PIL import Image

from cmd_lightning.errors import InputError
from cmd_lightning.video_encoding import gif_bytes, mp4_bytes


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
