"""Videos whose frames can be shown in more than one way, from another encoder than the project's."""

import io

import av
import numpy as np


def close(video, wanted, levels=2):
    assert video.shape == wanted.shape
    assert (video.float() - wanted.float()).abs().max() <= levels


def coded(images, kind="mp4", codec="libx264", pixels="yuv420p", prepare=None, rate=10, **options):
    """Images (T, H, W, 3 or 4) encoded without the project's encoder; `prepare` sets up the stream."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=kind) as container:
        stream = container.add_stream(codec, rate=rate, options=options)
        stream.height, stream.width = images[0].shape[:2]
        stream.pix_fmt = pixels
        if prepare:
            prepare(stream)
        for image in images:
            layout = "rgba" if image.shape[2] == 4 else "rgb24"
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format=layout)
            container.mux(stream.encode(frame.reformat(format=pixels)))
        container.mux(stream.encode(None))
    return buffer.getvalue()


def ramps(frames=3, height=32, width=48):
    y, x = np.mgrid[:height, :width]
    first = np.stack([4 * x + 20, 5 * y + 30, 200 - 2 * x], -1).clip(0, 255).astype(np.uint8)
    return np.stack([np.roll(first, 2 * n, 0) for n in range(frames)])


def tagged(stream):
    codec = stream.codec_context
    codec.colorspace = codec.color_primaries = codec.color_trc = codec.color_range = 1


def fields(count=8, height=32, width=48):
    """Interlaced frames of a moving bar: even lines show a time, odd lines half a frame later."""
    images = np.full((count, height, width, 3), 40, np.uint8)
    for number in range(count):
        for line in range(height):
            left = 4 + 4 * number + 2 * (line % 2)
            images[number, line, left : left + 8] = 220
    return images


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
    image = (np.rint(patches * 65535).astype(np.uint16))[None].repeat(32, 1).repeat(16, 0)

    def prepare(stream):
        codec = stream.codec_context
        codec.colorspace, codec.color_primaries, codec.color_trc, codec.color_range = 9, primaries, transfer, 1

    buffer = io.BytesIO()
    with av.open(buffer, "w", format=kind) as container:
        # With more threads x265 now and then hands over a packet without a time.
        alone = "pools=none:frame-threads=1:bframes=0"
        options = {"libx265": {"x265-params": f"lossless=1:log-level=none:{alone}"}, "libx264": {"crf": "1"}}[codec]
        stream = container.add_stream(codec, rate=10, options=options)
        stream.height, stream.width, stream.pix_fmt = 16, image.shape[1], "yuv444p10le"
        prepare(stream)
        for number in range(2):
            frame = av.VideoFrame.from_ndarray(image, format="rgb48le")
            frame = frame.reformat(format="yuv444p10le", dst_colorspace=9, dst_color_range=1)
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return buffer.getvalue()


def glass(frames=3, height=16, width=24):
    """Images (T, H, W, 4): one third opaque, one half transparent, one transparent over hidden colours."""
    images = np.zeros((frames, height, width, 4), np.uint8)
    images[..., :3] = 200, 40, 10
    images[..., 3] = np.repeat([255, 128, 0], 8)
    images[:, :, 16:, :3] = 0, 255, 0
    return images


def palette(image):
    """A frame with a palette of greys, and the red channel of an image as indices."""
    frame = av.VideoFrame(image.shape[1], image.shape[0], "pal8")
    colours = np.stack([np.arange(256), 255 - np.arange(256), np.full(256, 90), np.full(256, 255)], -1)
    frame.planes[1].update(np.ascontiguousarray(colours.astype(np.uint8)).tobytes())
    rows = np.zeros((image.shape[0], frame.planes[0].line_size), np.uint8)
    rows[:, : image.shape[1]] = image[..., 0]
    frame.planes[0].update(rows.tobytes())
    return frame
