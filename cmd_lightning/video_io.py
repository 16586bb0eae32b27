"""Read and write clips: mp4, avi, mkv, webm, gif and folders of PNG frames, always as uint8 (C, T, H, W).

Decoding and encoding are PyAV's (FFmpeg), GIFs are Pillow's; both are imported when first needed.
"""

import io
import os
import re
import shutil
import tempfile
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cmd_lightning.errors import InputError

VIDEO_SUFFIXES = ("mp4", "avi", "mkv", "webm", "gif")


@dataclass(frozen=True)
class VideoInfo:
    """What a file says of itself.

    Attributes:
        frames: number of frames.
        fps: mean frame rate in frames per second; 0 where nothing tells it (a folder of PNGs).
        width: width in pixels.
        height: height in pixels.
    """

    frames: int
    fps: float
    width: int
    height: int


class VideoReader:
    """A clip of which any frames can be read, in any order, decoding no more than they need.

    Opening walks over the packets without decoding them: that gives the exact number of frames, their times
    and the key frames in every container (headers are silent in mkv and gif, and wrong in some mp4).

    Args:
        source: a file, a folder of PNG frames (in natural order of their names), or the bytes of a file.

    Raises:
        InputError: the source is missing or cannot be read as video.
    """

    def __init__(self, source: str | Path | bytes) -> None:
        self._source = source
        self._pictures: list[Path] = []
        if not isinstance(source, bytes):
            if not Path(source).exists():
                raise InputError(f"{source}: no such video file or folder; check the path")
            if Path(source).is_dir():
                self._pictures = sorted(Path(source).glob("*.png"), key=lambda picture: natural_key(picture.name))
                self.info = self._inspect_folder()
                return
        with self._open() as (container, stream):
            packets = [p for p in container.demux(stream) if p.size and not p.is_discard]
            # AVI keeps no times of presentation; FFmpeg's guesses are wrong where there are B-frames.
            timed = container.format.name != "avi" and all(p.pts is not None for p in packets)
            self._times = sorted(p.pts for p in packets) if timed else []
            # A GIF's frames build on each other whatever their flags say: it is always read from its start.
            seekable = timed and container.format.name != "gif"
            keys = [(p.pts, p.dts) for p in packets if p.is_keyframe and p.dts is not None] if seekable else []
            self._keys = sorted(keys)
            self.info = VideoInfo(len(packets), self._rate(container, stream), stream.width, stream.height)
        if not packets or not self.info.width:
            raise InputError(f"{self._name}: holds no video frames; replace or remove the file")

    def read(self, indices: Sequence[int] | None = None) -> Tensor:
        """Decode the frames of the given numbers.

        Args:
            indices: frame numbers from 0 in order of presentation, repeats allowed; None reads every frame.

        Returns:
            uint8 RGB, (C, T, H, W), one frame for each index.

        Raises:
            InputError: a number is out of range, or a frame cannot be decoded.
        """
        indices = range(self.info.frames) if indices is None else indices
        wanted = sorted(set(indices))
        if not wanted or wanted[0] < 0 or wanted[-1] >= self.info.frames:
            raise InputError(
                f"{self._name}: has {self.info.frames} frames, not those asked for; ask for fewer or earlier"
            )
        if self._pictures:
            frames = {index: _read_png(self._pictures[index]) for index in wanted}
        elif self._times:
            frames = self._decode_timed(wanted)
        else:
            frames = self._decode_counted(wanted)
        if len(frames) < len(wanted) or len({frame.shape for frame in frames.values()}) > 1:
            raise InputError(f"{self._name}: frames are damaged or missing; replace or remove the file")
        return torch.stack([frames[index] for index in indices], 1)

    def verify(self) -> None:
        """Decode every frame and keep none.

        Raises:
            InputError: a frame cannot be decoded or is missing.
        """
        if self._pictures:
            decoded = sum(1 for picture in self._pictures if _read_png(picture) is not None)
        else:
            with self._open() as (container, stream):
                decoded = sum(1 for _ in container.decode(stream))
        if decoded < self.info.frames:
            raise InputError(f"{self._name}: {self.info.frames - decoded} frames are damaged; replace the file")

    @property
    def _name(self) -> str:
        return "clip in memory" if isinstance(self._source, bytes) else str(self._source)

    @contextmanager
    def _open(self) -> Iterator[tuple[Any, Any]]:
        import av

        source = io.BytesIO(self._source) if isinstance(self._source, bytes) else str(self._source)
        try:
            # Titles that are not UTF-8 must not cost the clip.
            with av.open(source, metadata_errors="replace") as container:
                if not container.streams.video:
                    raise InputError(f"{self._name}: holds no video stream; replace or remove the file")
                stream = container.streams.video[0]
                stream.codec_context.thread_count = 1  # clips are small and loaders already run side by side
                yield container, stream
        except av.FFmpegError as error:
            detail = str(error.strerror or error)
            raise InputError(f"{self._name}: not readable as video ({detail}); replace or remove the file") from error

    def _rate(self, container: Any, stream: Any) -> float:
        span = self._times[-1] - self._times[0] if self._times else 0
        if span and (container.format.name == "gif" or not stream.average_rate):  # FFmpeg guesses that of a GIF
            return float((len(self._times) - 1) / (span * stream.time_base))
        return float(stream.average_rate or 1)

    def _inspect_folder(self) -> VideoInfo:
        if not self._pictures:
            raise InputError(f"{self._source}: the folder holds no .png frames; name a video file or such a folder")
        _, height, width = _read_png(self._pictures[0]).shape
        return VideoInfo(len(self._pictures), 0.0, width, height)

    def _decode_timed(self, wanted: list[int]) -> dict[int, Tensor]:
        index_of = {self._times[index]: index for index in wanted}
        first, last = self._times[wanted[0]], self._times[wanted[-1]]
        # The key frame is chosen by its time of presentation but sought by its decoding time: seeking mp4 by
        # the former can land one key frame too late where there are B-frames.
        before = bisect_right(self._keys, first, key=lambda key: key[0])
        starts = [self._keys[before - 1][1], None] if before > 1 else [None]
        frames: dict[int, Tensor] = {}
        for start in starts:  # a seek that lands too late leaves gaps: then once more from the beginning
            frames = {}
            with self._open() as (container, stream):
                if start is not None:
                    container.seek(start, stream=stream)
                for frame in container.decode(stream):
                    if frame.pts in index_of:
                        frames[index_of[frame.pts]] = _to_tensor(frame)
                    if len(frames) == len(wanted) or (frame.pts is not None and frame.pts > last):
                        break
            if len(frames) == len(wanted):
                break
        return frames

    def _decode_counted(self, wanted: list[int]) -> dict[int, Tensor]:
        # Without times of presentation only counting from the start is exact.
        frames = {}
        chosen = set(wanted)
        with self._open() as (container, stream):
            for index, frame in enumerate(container.decode(stream)):
                if index in chosen:
                    frames[index] = _to_tensor(frame)
                if index == wanted[-1]:
                    break
        return frames


def natural_key(path: str) -> tuple[str, str]:
    """What to sort paths by for natural order: by the numbers in them, so that "a/2" comes before "a/10".

    Returns:
        A key that differs between any two paths ("02" comes before "2"); it sorts names whose numbers are padded with
        zeros as text does.
    """
    return re.sub(r"[0-9]+", lambda number: number[0].zfill(20), path), path


def probe(source: str | Path | bytes) -> VideoInfo:
    """Number of frames, rate and size of a clip, without decoding it.

    Args:
        source: a file, a folder of PNG frames, or the bytes of a file.

    Raises:
        InputError: the source is missing or cannot be read as video.
    """
    return VideoReader(source).info


def read_video(source: str | Path | bytes, indices: Sequence[int] | None = None) -> Tensor:
    """Read a clip, or some of its frames, as uint8 RGB (C, T, H, W).

    Args:
        source: an mp4, avi, mkv, webm or gif file, a folder of PNG frames, or the bytes of a file.
        indices: numbers of the frames to read; None reads all.

    Raises:
        InputError: the source is missing, unreadable, or shorter than asked.
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
        stream.options = {"crf": str(crf), "preset": preset}
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


@contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """Hand out a temporary name that becomes `path` when the block ends well, and is removed if not."""
    folder = Path(tempfile.mkdtemp(prefix=".part-", dir=path.parent))
    try:
        temporary = folder / path.name
        yield temporary
        os.replace(temporary, path)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


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
        raise InputError(f"{path}: not readable as a picture; replace or remove the file") from error


def _to_tensor(frame: Any) -> Tensor:
    return torch.from_numpy(frame.to_ndarray(format="rgb24")).permute(2, 0, 1)
