"""Read and write clips: video files, animations and folders of frames, always as uint8 (C, T, H, W).

Decoding (`video_file`) and encoding are PyAV's (FFmpeg); animated WebP is read (`animation`) and GIFs are written by
Pillow. Both are imported when first needed.
"""

import io
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cmd_lightning.animation import WebPFile, is_webp
from cmd_lightning.atomic_files import replaced
from cmd_lightning.errors import InputError
from cmd_lightning.image_io import read_image
from cmd_lightning.video_file import VideoError, VideoFile
from cmd_lightning.viewing import PLAIN, Seen, Viewing

VIDEO_SUFFIXES = (
    *("mp4", "avi", "mkv", "webm", "gif", "mov", "m4v", "mpg", "mpeg", "vob", "ts", "mts", "m2ts", "wmv", "asf"),
    *("flv", "f4v", "ogv", "3gp", "3g2", "apng", "webp"),
)
"""Of clips, in lower case; of the files of a sample the first in this order is its clip."""
GIF_FPS = 50
FRAME_SUFFIXES = ("png", "tif", "tiff")
"""Of frames in folders, in lower case; all are of the first kind that is there, and tif and tiff are one."""

_GROUP = 2**22  # bytes of frames that are kept in full; more at a time is no faster


@dataclass(frozen=True)
class VideoInfo:
    """What a clip is.

    Attributes:
        frames: Number of frames.
        fps: Mean frame rate in frames per second; 0 where it is unknown (a folder of frames).
        width: Width in pixels, as it is shown.
        height: Height in pixels, as it is shown.
        interlaced: Whether frames are flagged as interlaced, of those decoded so far.
        hdr: Whether frames are HDR (PQ or HLG), of those decoded so far.
        transparent: Whether frames have transparent pixels, of those read so far.
    """

    frames: int
    fps: float
    width: int
    height: int
    interlaced: bool = False
    hdr: bool = False
    transparent: bool = False


class VideoReader:
    """A clip of which any frames can be read, in any order, decoding no more than they need.

    Attributes:
        frames: Number of frames.
        fps: Mean frame rate in frames per second; 0 where it is unknown (a folder of frames).
        times: Seconds of each frame from the first where the rate varies; None where it is constant.
        seen: What is known of the frames that were decoded so far.

    Args:
        source: A file, a folder of PNG or TIFF frames (in natural order of their names), or the bytes of a file.
        viewing: How interlaced, HDR and transparent frames are shown.

    Raises:
        InputError: The source is missing.
        VideoError: It cannot be read as video.
    """

    def __init__(self, source: str | Path | bytes, viewing: Viewing = PLAIN) -> None:
        self._name = "clip in memory" if isinstance(source, bytes) else str(source)
        source = source if isinstance(source, bytes) else Path(source)
        if isinstance(source, Path) and not source.exists():
            raise InputError(f"{source}: no such video file or folder; check the path")
        self._file: _ImageFolder | WebPFile | VideoFile
        if isinstance(source, Path) and source.is_dir():
            self._file = _ImageFolder(source, viewing)
        else:  # whatever its name says
            self._file = (WebPFile if is_webp(source) else VideoFile)(source, self._name, viewing)
        self.frames, self.fps, self.times = self._file.frames, self._file.fps, self._file.times
        self.seen = self._file.seen

    @cached_property
    def info(self) -> VideoInfo:
        """What the clip is; decodes its first frame, as only that gives the size as it is shown.

        Raises:
            VideoError: The first frame cannot be decoded.
        """
        _, _, height, width = self.read([0]).shape
        interlaced, hdr, transparent = self.seen.interlaced, self.seen.hdr, self.seen.transparent
        return VideoInfo(self.frames, self.fps, width, height, interlaced, hdr, transparent)

    def read(
        self, indices: Sequence[int] | None = None, transform: Callable[[Tensor], Tensor] = lambda frames: frames
    ) -> Tensor:
        """Decode frames.

        Args:
            indices: Frame numbers from 0 in order of presentation, repeats allowed; None reads every frame.
            transform: Applied to some frames at a time, uint8 RGB (C, T, H, W), so that few are kept in full.

        Returns:
            (C, T, H, W), one frame for each index: uint8 RGB as it is shown, or the output of `transform`.

        Raises:
            InputError: A number is out of range.
            VideoError: A frame cannot be decoded, or only at too high a cost.
        """
        indices = range(self.frames) if indices is None else indices
        wanted = sorted(set(indices))
        if not wanted or wanted[0] < 0 or wanted[-1] >= self.frames:
            raise InputError(f"{self._name}: has {self.frames} frames, not those asked for; ask for fewer or earlier")
        order: list[int] = []
        parts = []
        for numbers, frames in _grouped(self._file.decode(wanted)):
            order += numbers
            parts.append(transform(frames))
            del frames
        if len({part.shape[2:] for part in parts}) > 1:
            raise VideoError(self._name, "damaged frames", "of several sizes")
        video = torch.cat(parts, 1) if len(parts) > 1 else parts[0].contiguous()
        if order == [*indices]:
            return video
        places = {index: place for place, index in enumerate(order)}
        return video[:, [places[index] for index in indices]]

    def verify(self) -> None:
        """Decode every frame and keep none.

        Raises:
            VideoError: A frame is damaged or missing.
        """
        if missing := max(0, self.frames - self._file.count()):
            raise VideoError(self._name, "damaged frames", f"{missing} cannot be decoded")


def _grouped(frames: Iterator[tuple[int, np.ndarray]]) -> Iterator[tuple[list[int], Tensor]]:
    """Numbered frames (H, W, 3), some at a time, of one size: their numbers, and (3, T, H, W); large ones alone."""
    numbers: list[int] = []
    group: list[np.ndarray] = []
    for number, frame in frames:
        if group and frame.shape != group[0].shape:
            yield _taken(numbers, group)
        numbers.append(number)
        group.append(frame)
        if (len(group) + 1) * frame.size > _GROUP:
            del frame  # before the next one is decoded
            yield _taken(numbers, group)
    if group:
        yield _taken(numbers, group)


def _taken(numbers: list[int], group: list[np.ndarray]) -> tuple[list[int], Tensor]:
    """The frames of a group as a tensor; the lists are empty then."""
    taken = [*numbers], _stacked(group)
    numbers.clear()
    group.clear()
    return taken


def _stacked(frames: list[np.ndarray]) -> Tensor:
    stack = np.stack(frames) if len(frames) > 1 else np.ascontiguousarray(frames[0])[None]  # a large one as it is
    return torch.from_numpy(stack).permute(3, 0, 1, 2)


class _ImageFolder:
    """A folder of PNG or TIFF frames in natural order, with the interface of a `VideoFile`."""

    fps, times = 0.0, None
    seen = Seen()

    def __init__(self, folder: Path, viewing: Viewing) -> None:
        self._paths, self._viewing = frames_in(folder), viewing
        if not self._paths:
            raise InputError(f"{folder}: the folder holds no .png or .tif frames; name a video file or such a folder")
        self.frames = len(self._paths)

    def decode(self, wanted: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        for index in wanted:
            yield index, read_image(self._paths[index], self._viewing.background).permute(1, 2, 0).numpy()

    def count(self) -> int:
        return sum(1 for _ in self.decode(range(self.frames)))


def frames_in(folder: Path) -> list[Path]:
    """The PNG frames of a folder in natural order of their names; where it has none, the TIFF frames."""
    named = sorted(folder.iterdir(), key=lambda path: natural_key(path.name))
    shown = [path for path in named if not path.name.startswith(".")]  # macOS puts ._000.png next to 000.png
    groups = ([path for path in shown if path.suffix[1:].lower() in kind] for kind in (("png",), ("tif", "tiff")))
    return next(filter(None, groups), [])


def natural_key(path: str) -> tuple[str, str]:
    """Sort key for natural order, by the numbers in paths: "a/2" comes before "a/10", and "02" before "2"."""
    return re.sub(r"[0-9]+", lambda number: number[0].zfill(20), path), path


def probe(source: str | Path | bytes, viewing: Viewing = PLAIN) -> VideoInfo:
    """Frames, frame rate and shown size of a video file or a folder of frames; raises as `VideoReader`."""
    return VideoReader(source, viewing).info


def read_video(source: str | Path | bytes, indices: Sequence[int] | None = None, viewing: Viewing = PLAIN) -> Tensor:
    """Read a clip, or some of its frames, as uint8 RGB (C, T, H, W).

    Args:
        source: A file of one of `VIDEO_SUFFIXES`, a folder of PNG or TIFF frames, or the bytes of a file.
        indices: Numbers of the frames to read, from 0; None reads all.
        viewing: How interlaced, HDR and transparent frames are shown.

    Raises:
        InputError: The source is missing, or has fewer frames than requested.
        VideoError: It cannot be read as video.
    """
    return VideoReader(source, viewing).read(indices)


def write_video(path: str | Path, video: Tensor, fps: float, *, crf: int = 17, scale: int = 1) -> None:
    """Write a clip; the name says how: `.mp4` (H.264), `.gif`, `.webp`, or no suffix for a folder of PNG frames.

    The file appears when it is complete, never half written. H.264 in 4:2:0 knows even sizes only: a last
    odd row or column is repeated once, nothing is rescaled.

    Args:
        path: Where to; folders above it are made.
        video: uint8 RGB, (C, T, H, W).
        fps: Frames per second; a folder of PNGs does not keep it.
        crf: H.264 quality, 0 (lossless) to 51; 17 hardly differs from the original.
        scale: Whole factor by which a GIF is enlarged, without smoothing.

    Raises:
        InputError: An unknown suffix, a folder that already has content, or `fps` is not above 0.
        ValueError: The video is not uint8 (3, T, H, W), or empty.
    """
    path = Path(path)
    _expect_video(video, fps)
    if path.suffix not in {".mp4", ".gif", ".webp", ""}:
        raise InputError(
            f"{path}: cannot write '{path.suffix}'; end the name in .mp4, .gif or .webp, or in nothing for PNGs"
        )
    if not path.suffix and path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise InputError(f"{path}: exists already; name a new or empty folder for the PNG frames")
    path.parent.mkdir(parents=True, exist_ok=True)
    with replaced(path) as temporary:
        if path.suffix == ".mp4":
            _encode_mp4(str(temporary), video, fps, crf, "medium", {"movflags": "faststart"})  # for players on the web
        elif path.suffix == ".gif":
            temporary.write_bytes(gif_bytes(video, fps, scale))
        elif path.suffix == ".webp":
            temporary.write_bytes(webp_bytes(video, fps))
        else:
            temporary.mkdir()
            for index, image in enumerate(_images(video, 1)):
                image.save(temporary / f"{index:06d}.png")


def mp4_bytes(video: Tensor, fps: float, *, crf: int = 17, preset: str = "medium") -> bytes:
    """Encode a clip as H.264 4:2:0 in mp4, tagged with its colours; the same input gives the same bytes.

    The matrix is the one that players take where a file has no tags: BT.709 from 720 lines on, BT.601 below.

    Args:
        video: uint8 RGB, (C, T, H, W); odd sizes are padded by repeating the last row or column.
        fps: Frames per second.
        crf: Quality, 0 (lossless) to 51.
        preset: The trade-off of x264 between speed and size, "ultrafast" to "veryslow".

    Raises:
        InputError: `fps` is not above 0.
        ValueError: The video is not uint8 (3, T, H, W), or empty.
    """
    _expect_video(video, fps)
    buffer = io.BytesIO()
    _encode_mp4(buffer, video, fps, crf, preset)
    return buffer.getvalue()


def _encode_mp4(
    target: str | io.BytesIO, video: Tensor, fps: float, crf: int, preset: str, options: Mapping[str, str] = {}
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
        # x264's rate control by macroblock trees reads memory that nobody has set, so the bytes would vary.
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
        video: uint8 RGB, (C, T, H, W).
        fps: Frames per second.
        scale: Whole factor to enlarge by, without smoothing.

    Raises:
        InputError: `fps` is not above 0, or so small that a frame would last longer than 655 seconds.
        ValueError: The video is not uint8 (3, T, H, W), or empty.
    """
    from PIL import Image

    _expect_video(video, fps)
    if 100 / fps > 65535:
        raise InputError(f"fps {fps}: a frame of a GIF lasts at most 655.35 s; give at least 0.0016")
    if fps > GIF_FPS:
        warnings.warn(
            f"fps {fps:g}: a GIF shows at most {GIF_FPS} frames per second, so frames are left out to keep the speed; "
            "write .mp4 to keep all",
            stacklevel=2,
        )
        kept = max(1, round(video.shape[1] * GIF_FPS / fps))
        video, fps = video[:, [int(index * fps / GIF_FPS) for index in range(kept)]], GIF_FPS
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
        video: uint8 RGB, (C, T, H, W).
        fps: Frames per second; durations are whole milliseconds, and on the whole the rate is kept.

    Raises:
        InputError: `fps` is not above 0, or above 1000.
        ValueError: The video is not uint8 (3, T, H, W), or empty.
    """
    _expect_video(video, fps)
    if fps > 1000:
        raise InputError(f"fps {fps}: a frame of a WebP lasts at least a millisecond; give at most 1000")
    images = _images(video, 1)
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


def _images(video: Tensor, scale: int) -> list[Any]:
    from PIL import Image

    frames = video.repeat_interleave(scale, 2).repeat_interleave(scale, 3).permute(1, 2, 3, 0)
    return [Image.fromarray(frame) for frame in frames.contiguous().cpu().numpy()]
