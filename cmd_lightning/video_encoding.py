"""Write clips, uint8 RGB (C, T, H, W): H.264 by PyAV (FFmpeg), GIF, WebP and PNG by Pillow, imported when needed."""

import io
import warnings
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cmd_lightning.atomic_files import replaced
from cmd_lightning.errors import InputError

_GIF_FPS = 50  # frames that browsers show of a GIF, at most


def write_video(path: str | Path, video: Tensor, fps: float) -> None:
    """Write a clip; the name says how: `.mp4` (H.264), `.gif`, `.webp`, or no suffix for a folder of PNG frames.

    The file appears when it is complete, never half written.

    Args:
        path: Where to; folders above it are made.
        video: uint8 RGB, (C, T, H, W).
        fps: Frames per second; a folder of PNGs does not keep it.

    Raises:
        InputError: An unknown suffix, a folder that already has content, or `fps` is not above 0.
        ValueError: The video is not uint8 (3, T, H, W), or empty.
    """
    path = Path(path)
    _expect_video(video, fps)
    if path.suffix not in {".mp4", ".gif", ".webp", ""}:
        remedy = "end the name in .mp4, .gif or .webp, or in nothing for PNGs"
        raise InputError(f"{path}: cannot write '{path.suffix}'; {remedy}")
    if not path.suffix and path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise InputError(f"{path}: exists already; name a new or empty folder for the PNG frames")
    path.parent.mkdir(parents=True, exist_ok=True)
    with replaced(path) as temporary:
        if path.suffix == ".mp4":
            _encode_mp4(str(temporary), video, fps, options={"movflags": "faststart"})  # for players on the web
        elif path.suffix:
            temporary.write_bytes((gif_bytes if path.suffix == ".gif" else webp_bytes)(video, fps))
        else:
            temporary.mkdir()
            for index, image in enumerate(_images(video)):
                image.save(temporary / f"{index:06d}.png")


def mp4_bytes(video: Tensor, fps: float, *, crf: int = 17, preset: str = "medium") -> bytes:
    """Encode a clip as H.264 4:2:0 in mp4, tagged with its colours; the same input gives the same bytes.

    The matrix is the one that players take where a file has no tags: BT.709 from 720 lines on, BT.601 below.

    Args:
        video: As of `write_video`; 4:2:0 has even sizes only, so a last odd row or column is repeated once.
        fps: Frames per second.
        crf: Quality, 0 (lossless) to 51; 17 hardly differs from the original.
        preset: The trade-off of x264 between speed and size, "ultrafast" to "veryslow".

    Raises:
        InputError, ValueError: As of `write_video`.
    """
    _expect_video(video, fps)
    buffer = io.BytesIO()
    _encode_mp4(buffer, video, fps, crf, preset)
    return buffer.getvalue()


def _encode_mp4(
    target: str | io.BytesIO,
    video: Tensor,
    fps: float,
    crf: int = 17,
    preset: str = "medium",
    options: Mapping[str, str] = {},
) -> None:
    """Encodes a clip into a file or a buffer, with the options of FFmpeg's muxer."""
    import av
    from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc, VideoReformatter

    _, _, height, width = video.shape
    matrix, tag = (Colorspace.ITU709, 1) if height >= 720 else (Colorspace.SMPTE170M, 6)  # tags as in H.273
    as_tagged = {"dst_colorspace": matrix, "dst_color_range": ColorRange.MPEG, "threads": 1}
    reformatter = VideoReformatter()
    frames = torch.nn.functional.pad(video.permute(1, 0, 2, 3), (0, width % 2, 0, height % 2), mode="replicate")
    with av.open(target, "w", format="mp4", options=dict(options)) as container:
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001))
        stream.width, stream.height = width + width % 2, height + height % 2
        stream.pix_fmt = "yuv420p"
        codec = stream.codec_context
        codec.thread_count = 1
        codec.colorspace, codec.color_range = tag, ColorRange.MPEG
        codec.color_primaries, codec.color_trc = ColorPrimaries.BT709, ColorTrc.BT709
        # x264's rate control by macroblock trees reads uninitialised memory, so the bytes would vary.
        stream.options = {"crf": str(crf), "preset": preset, "mbtree": "0"}
        for image in frames.permute(0, 2, 3, 1).contiguous().cpu().numpy():
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            container.mux(stream.encode(reformatter.reformat(frame, format="yuv420p", **as_tagged)))
        container.mux(stream.encode(None))


def gif_bytes(video: Tensor, fps: float, scale: int = 1) -> bytes:
    """Encode a clip as a looping GIF, with one palette and no dithering: flat areas stay flat.

    GIF counts hundredths of a second, so durations of frames may differ by one; on the whole the rate is kept. Browsers
    show no frame for less than two hundredths: above 50 frames per second, frames are left out, with a warning.

    Args:
        video: As of `write_video`.
        fps: Frames per second.
        scale: Whole factor to enlarge by, without smoothing.

    Raises:
        InputError, ValueError: As of `write_video`, or a frame would last longer than 655 seconds.
    """
    from PIL import Image

    _expect_video(video, fps)
    if 100 / fps > 65535:
        raise InputError(f"fps {fps}: a frame of a GIF lasts at most 655.35 s; give at least 0.0016")
    if fps > _GIF_FPS:
        warnings.warn(
            f"fps {fps:g}: a GIF shows at most {_GIF_FPS} frames per second, so frames are left out to keep the speed; "
            "write .mp4 to keep all",
            stacklevel=2,
        )
        kept = max(1, round(video.shape[1] * _GIF_FPS / fps))
        video, fps = video[:, [int(index * fps / _GIF_FPS) for index in range(kept)]], _GIF_FPS
    # The palette is made from all frames at their original size, side by side.
    strip = video.permute(2, 1, 3, 0).flatten(1, 2).contiguous().cpu().numpy()
    palette = Image.fromarray(strip).quantize(256, dither=Image.Dither.NONE)
    images = [image.quantize(palette=palette, dither=Image.Dither.NONE) for image in _images(video, scale)]
    ends = [round(100 * (index + 1) / fps) for index in range(len(images))]
    durations = [10 * (end - start) for start, end in zip([0, *ends], ends, strict=False)]
    buffer = io.BytesIO()
    images[0].save(buffer, "GIF", save_all=True, append_images=images[1:], duration=durations, loop=0, optimize=False)
    return buffer.getvalue()


def webp_bytes(video: Tensor, fps: float) -> bytes:
    """Encode a clip as a looping, lossless WebP; equal frames in a row are stored as one that lasts longer.

    Args:
        video: As of `write_video`.
        fps: Frames per second; durations are whole milliseconds, and on the whole the rate is kept.

    Raises:
        InputError, ValueError: As of `write_video`, or `fps` is above 1000.
    """
    _expect_video(video, fps)
    if fps > 1000:
        raise InputError(f"fps {fps}: a frame of a WebP lasts at least a millisecond; give at most 1000")
    images = _images(video)
    ends = [round(1000 * (index + 1) / fps) for index in range(len(images))]
    durations = [end - start for start, end in zip([0, *ends], ends, strict=False)]
    buffer = io.BytesIO()
    images[0].save(buffer, "WEBP", save_all=True, append_images=images[1:], duration=durations, loop=0, lossless=True)
    return buffer.getvalue()


def _expect_video(video: Tensor, fps: float) -> None:
    if video.dtype != torch.uint8 or video.ndim != 4 or video.shape[0] != 3 or 0 in video.shape:
        raise ValueError(f"expected a uint8 video (3, T, H, W), got {video.dtype} {tuple(video.shape)}")
    if fps <= 0:
        raise InputError(f"fps {fps}: must be above 0")


def _images(video: Tensor, scale: int = 1) -> list[Any]:
    from PIL import Image

    frames = video.repeat_interleave(scale, 2).repeat_interleave(scale, 3).permute(1, 2, 3, 0)
    return [Image.fromarray(frame) for frame in frames.contiguous().cpu().numpy()]
