"""Videos from another encoder than the project's, with numbered frames, and files that are not videos."""

import contextlib
import io
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch
from PIL import Image


def encode(
    images, kind="mp4", codec="libx264", pixels="yuv420p", ticks=None, base=Fraction(1, 1000), rate=10, **options
):
    """An encoder apart from the project's: uint8 (T, H, W, 3), shown at these ticks of the base, to bytes."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=kind) as container:
        stream = container.add_stream(codec, rate=Fraction(rate), options={"crf": "10", **options})
        stream.height, stream.width = images[0].shape[:2]
        stream.pix_fmt = pixels
        if ticks is not None:
            stream.codec_context.time_base = base
        for number, image in enumerate(images):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            if ticks is not None:
                frame.pts, frame.time_base = ticks[number], base
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return buffer.getvalue()


def as_ffmpeg_shows(source, *steps):
    """What FFmpeg's own filters give, uint8 (3, T, H, W): these steps, then square pixels, as `ffmpeg -vf` would."""
    with av.open(
        str(source) if isinstance(source, Path) else io.BytesIO(source), metadata_errors="replace"
    ) as container:
        stream = container.streams.best("video")
        graph, shown = av.filter.Graph(), []
        for frame in container.decode(stream):
            if not graph.configured:
                buffer = graph.add(
                    "buffer",
                    f"video_size={frame.width}x{frame.height}:pix_fmt={frame.format.name}:time_base={stream.time_base}"
                    f":pixel_aspect={stream.sample_aspect_ratio or 1}"
                    f":colorspace={frame.colorspace}:range={frame.color_range}",
                )
                own = [("scale", "w=trunc(iw*max(sar\\,0.001)):h=ih:flags=bicubic"), ("format", "pix_fmts=rgb24")]
                nodes = [graph.add(name, options) for name, options in (*steps, *own)]
                graph.link_nodes(buffer, *nodes, graph.add("buffersink")).configure()
            graph.vpush(frame)
            shown += _pulled(graph)
        graph.vpush(None)
        shown += _pulled(graph)
    return torch.from_numpy(np.stack(shown)).permute(3, 0, 1, 2)


def _pulled(graph):
    frames = []
    with contextlib.suppress(BlockingIOError, EOFError):
        while True:
            frames.append(graph.vpull().to_ndarray())
    return frames


def numbered(count, height=16, width=64):
    """Images that show their number as eight black or white bars."""
    images = np.zeros((count, height, width, 3), np.uint8)
    for number in range(count):
        for bit in range(8):
            images[number, :, bit * width // 8 : (bit + 1) * width // 8] = 255 * (number >> bit & 1)
    return images


def numbers_in(video):
    bars = video.float().mean((0, 2)).unflatten(1, (8, -1)).mean(2) > 128
    return (bars * 2 ** torch.arange(8)).sum(1).tolist()


def corners(height=24, width=40):
    """Images that any rotation or mirroring changes: red, green, blue and white corners."""
    image = np.zeros((height, width, 3), np.uint8)
    middle = height // 2, width // 2
    image[: middle[0], : middle[1], 0] = 220
    image[: middle[0], middle[1] :, 1] = 220
    image[middle[0] :, : middle[1], 2] = 220
    image[middle[0] :, middle[1] :] = 220
    return image[None].repeat(4, 0)


def still_image(kind="PNG"):
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16), "red").save(buffer, kind)
    return buffer.getvalue()


def sound():
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 8000), "float32"), format="fltp", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return buffer.getvalue()
