"""Read and write clips: mp4, avi, mkv, webm, gif and folders of PNG frames, always as uint8 (C, T, H, W).

Decoding (`video_file`) and encoding are PyAV's (FFmpeg), GIFs are written by Pillow; both are imported when first
needed.
"""

import io
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cmd_lightning.atomic_files import replaced
from cmd_lightning.errors import InputError
from cmd_lightning.video_file import VideoError, VideoFile

VIDEO_SUFFIXES = ("mp4", "avi", "mkv", "webm", "gif")


@dataclass(frozen=True)
class VideoInfo:
    """What a clip is.

    Attributes:
        frames: number of frames.
        fps: mean frame rate in frames per second; 0 where nothing tells it (a folder of PNGs).
        width: width in pixels, as it is shown.
        height: height in pixels, likewise.
    """

    frames: int
    fps: float
    width: int
    height: int


class VideoReader:
    """A clip of which any frames can be read, in any order, decoding no more than they need.

    Attributes:
        frames: number of frames.
        fps: mean frame rate in frames per second; 0 where nothing tells it (a folder of PNGs).
        times: seconds of each frame from the first where the rate varies; None where it is constant.

    Args:
        source: a file, a folder of PNG frames (in natural order of their names), or the bytes of a file.

    Raises:
        InputError: the source is missing.
        VideoError: it cannot be read as video.
    """

    def __init__(self, source: str | Path | bytes) -> None:
        self._name = "clip in memory" if isinstance(source, bytes) else str(source)
        if not isinstance(source, bytes):
            source = Path(source)
            if not source.exists():
                raise InputError(f"{source}: no such video file or folder; check the path")
        is_folder = isinstance(source, Path) and source.is_dir()
        self._file = _PictureFolder(source) if is_folder else VideoFile(source, self._name)
        self.frames, self.fps, self.times = self._file.frames, self._file.fps, self._file.times

    @cached_property
    def info(self) -> VideoInfo:
        """What the clip is; decodes its first frame, which alone tells the size as it is shown.

        Raises:
            VideoError: the first frame cannot be decoded.
        """
        _, _, height, width = self.read([0]).shape
        return VideoInfo(self.frames, self.fps, width, height)

    def read(
        self, indices: Sequence[int] | None = None, transform: Callable[[Tensor], Tensor] = lambda frame: frame
    ) -> Tensor:
        """Decode the frames of the given numbers.

        Args:
            indices: frame numbers from 0 in order of presentation, repeats allowed; None reads every frame.
            transform: applied to each frame, uint8 RGB (C, H, W), as it is decoded, so that none is kept in full.

        Returns:
            One frame for each index, (C, T, H, W): uint8 RGB as it is shown, or what `transform` makes of it.

        Raises:
            InputError: a number is out of range.
            VideoError: a frame cannot be decoded, or only at too high a cost.
        """
        indices = range(self.frames) if indices is None else indices
        wanted = sorted(set(indices))
        if not wanted or wanted[0] < 0 or wanted[-1] >= self.frames:
            raise InputError(f"{self._name}: has {self.frames} frames, not those asked for; ask for fewer or earlier")
        frames = {index: transform(frame) for index, frame in self._file.decode(wanted)}
        if len({frame.shape for frame in frames.values()}) > 1:
            raise VideoError(self._name, "damaged frames", "of several sizes")
        return torch.stack([frames[index] for index in indices], 1)

    def verify(self) -> None:
        """Decode every frame and keep none.

        Raises:
            VideoError: a frame cannot be decoded or is missing.
        """
        if missing := max(0, self.frames - self._file.count()):
            raise VideoError(self._name, "damaged frames", f"{missing} cannot be decoded")


class _PictureFolder:
    """A folder of PNG frames in natural order, with the face of a `VideoFile`."""

    fps, times = 0.0, None

    def __init__(self, folder: Path) -> None:
        self._pictures = sorted(folder.glob("*.png"), key=lambda picture: natural_key(picture.name))
        if not self._pictures:
            raise InputError(f"{folder}: the folder holds no .png frames; name a video file or such a folder")
        self.frames = len(self._pictures)

    def decode(self, wanted: Sequence[int]) -> Iterator[tuple[int, Tensor]]:
        for index in wanted:
            yield index, _read_png(self._pictures[index])

    def count(self) -> int:
        return sum(1 for _ in self.decode(range(self.frames)))


def natural_key(path: str) -> tuple[str, str]:
    """What to sort paths by for natural order: by the numbers in them, so that "a/2" comes before "a/10".

    Returns:
        A key that differs between any two paths ("02" comes before "2"); it sorts names whose numbers are padded with
        zeros as text does.
    """
    return re.sub(r"[0-9]+", lambda number: number[0].zfill(20), path), path


def probe(source: str | Path | bytes) -> VideoInfo:
    """Number of frames, rate and size of a clip, of which only the first frame is decoded.

    Args:
        source: a file, a folder of PNG frames, or the bytes of a file.

    Raises:
        InputError: the source is missing.
        VideoError: it cannot be read as video.
    """
    return VideoReader(source).info


def read_video(source: str | Path | bytes, indices: Sequence[int] | None = None) -> Tensor:
    """Read a clip, or some of its frames, as uint8 RGB (C, T, H, W).

    Args:
        source: an mp4, avi, mkv, webm or gif file, a folder of PNG frames, or the bytes of a file.
        indices: numbers of the frames to read; None reads all.

    Raises:
        InputError: the source is missing or shorter than asked.
        VideoError: it cannot be read as video.
    """
    return VideoReader(source).read(indices)


def write_video(path: str | Path, video: Tensor, fps: float, *, crf: int = 17, scale: int = 1) -> None:
    """Write a clip; the name says how: `.mp4` (H.264), `.gif`, or no suffix for a folder of PNG frames.

    The file appears when it is complete, never half written. H.264 in 4:2:0 knows even sizes only: a last
    odd row or column is repeated once, nothing is rescaled.

    Args:
        path: where to; folders above it are made.
        video: uint8 RGB, (C, T, H, W).
        fps: frames per second; a folder of PNGs does not keep it.
        crf: H.264 quality, 0 (lossless) to 51; 17 is hardly told from the original.
        scale: whole factor by which a GIF is enlarged, without smoothing.

    Raises:
        InputError: an unknown suffix, or a folder that holds something already.
    """
    path = Path(path)
    _expect_video(video, fps)
    if path.suffix not in {".mp4", ".gif", ""}:
        raise InputError(f"{path}: cannot write '{path.suffix}'; end the name in .mp4 or .gif, or in nothing for PNGs")
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix:
        data = mp4_bytes(video, fps, crf=crf) if path.suffix == ".mp4" else gif_bytes(video, fps, scale)
        with replaced(path) as temporary:
            temporary.write_bytes(data)
        return
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise InputError(f"{path}: exists already; name a new or empty folder for the PNG frames")
    with replaced(path) as temporary:
        temporary.mkdir()
        for index, picture in enumerate(_pictures(video, 1)):
            picture.save(temporary / f"{index:06d}.png")


def mp4_bytes(video: Tensor, fps: float, *, crf: int = 17, preset: str = "medium") -> bytes:
    """Encode uint8 (C, T, H, W) as H.264 4:2:0 in mp4; the same input gives the same bytes.

    Args:
        video: uint8 RGB, (C, T, H, W); odd sizes are padded by repeating the last row or column.
        fps: frames per second.
        crf: quality, 0 (lossless) to 51.
        preset: x264's trade of speed for size, "ultrafast" to "veryslow".
    """
    import av

    _expect_video(video, fps)
    _, _, height, width = video.shape
    frames = torch.nn.functional.pad(video.permute(1, 0, 2, 3), (0, width % 2, 0, height % 2), mode="replicate")
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001))
        stream.width, stream.height = width + width % 2, height + height % 2
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1
        # x264's rate control by macroblock trees reads memory that nobody has set, so the bytes would vary.
        stream.options = {"crf": str(crf), "preset": preset, "mbtree": "0"}
        for picture in frames.permute(0, 2, 3, 1).contiguous().cpu().numpy():
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    return buffer.getvalue()


def gif_bytes(video: Tensor, fps: float, scale: int = 1) -> bytes:
    """Encode uint8 (C, T, H, W) as a looping GIF, with one palette and no dithering: flat areas stay flat.

    Args:
        video: uint8 RGB, (C, T, H, W).
        fps: frames per second, at most 50; GIF counts hundredths of a second, so frames may differ by one.
        scale: whole factor to enlarge by, without smoothing.
    """
    from PIL import Image

    _expect_video(video, fps)
    pictures = _pictures(video, scale)
    # The palette is made from all frames at their original size, side by side.
    strip = video.permute(2, 1, 3, 0).flatten(1, 2).contiguous().cpu().numpy()
    palette = Image.fromarray(strip).quantize(256, dither=Image.Dither.NONE)
    pictures = [picture.quantize(palette=palette, dither=Image.Dither.NONE) for picture in pictures]
    ends = [round(100 * (index + 1) / fps) for index in range(len(pictures))]
    durations = [10 * (end - start) for start, end in zip([0, *ends], ends, strict=False)]
    buffer = io.BytesIO()
    pictures[0].save(
        buffer, "GIF", save_all=True, append_images=pictures[1:], duration=durations, loop=0, optimize=False
    )
    return buffer.getvalue()


def _expect_video(video: Tensor, fps: float) -> None:
    if video.dtype != torch.uint8 or video.ndim != 4 or video.shape[0] != 3 or 0 in video.shape:
        raise ValueError(f"expected a uint8 video (3, T, H, W), got {video.dtype} {tuple(video.shape)}")
    if fps <= 0:
        raise InputError(f"fps {fps}: must be above 0")


def _pictures(video: Tensor, scale: int) -> list[Any]:
    from PIL import Image

    frames = video.repeat_interleave(scale, 2).repeat_interleave(scale, 3).permute(1, 2, 3, 0)
    return [Image.fromarray(frame) for frame in frames.contiguous().cpu().numpy()]


def _read_png(path: Path) -> Tensor:
    import numpy as np
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as picture:
            return torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1)
    except (UnidentifiedImageError, OSError) as error:
        raise VideoError(str(path), "damaged frames", "not readable as a picture") from error
