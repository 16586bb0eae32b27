"""Decode video files with PyAV (FFmpeg): any frames of them, exactly, within bounds, whatever the bytes hold.

FFmpeg guesses the format from the content, whatever the name says, and some formats are lists of other files and
addresses that it would open. So only containers that hold their frames themselves are let in, and no protocol but
local files.
"""

import io
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from cmd_lightning.errors import InputError, reason

MAX_DECODED_PIXELS = 2**34  # in a read, wanted or not: half a minute of one core for H.264, five minutes of 1080p
MAX_FRAME_PIXELS = 2**26  # 8192x8192: twice 8K

Reason = Literal["empty file", "unreadable video", "still picture", "no video stream", "damaged frames", "too costly"]

_WORTH_A_SEEK = 8  # frames: fewer are decoded about as fast as a decoder restarts


class VideoError(InputError):
    """A source that cannot be decoded.

    Attributes:
        reason: Why, in one or two words; bad samples are counted by it.
    """

    def __init__(self, name: str, reason: Reason, detail: str = "") -> None:
        super().__init__(f"{name}: {reason}{f' ({detail})' if detail else ''}; replace or remove the file")
        self.reason = reason


class _Key(NamedTuple):
    """A key frame: its time of presentation, and its place in the order of decoding."""

    time: float
    place: int


_START = _Key(-float("inf"), 0)


class _Run(NamedTuple):
    """Wanted frames that are decoded in one go, the key frame to begin at, and the place of the last one."""

    key: _Key
    wanted: list[int]
    last: int


class VideoFile:
    """A video file, open, of which any frames can be decoded.

    Opening walks over the packets without decoding them: that gives the exact number of frames, their times
        and the key frames in every container (headers are silent in mkv and gif, and wrong in some mp4).

    Attributes:
        frames: Number of frames.
        fps: Mean frame rate in frames per second.
        times: Seconds of each frame from the first where the rate varies; None where frame n is at n / fps, as it
            is taken to be in AVI and in files without times.

    Args:
        source: A file that exists, or the bytes of one.
        name: What errors call it.

    Raises:
        VideoError: It cannot be read as video.
    """

    times: list[float] | None

    def __init__(self, source: Path | bytes, name: str) -> None:
        self.name, self._source = name, source
        self._container: Any = None
        self._turn: tuple[bool, list[int]] | None = None
        if not (len(source) if isinstance(source, bytes) else source.stat().st_size):
            raise VideoError(name, "empty file")
        with self._errors("unreadable video"):
            self._open()
            self._walk()
            self._set_rate()

    def __del__(self) -> None:
        """Closes the file: PyAV's objects refer to each other, and stay with their frames until Python finds such."""
        if self._container is not None:
            self._container.close()

    def decode(self, wanted: Sequence[int]) -> Iterator[tuple[int, Tensor]]:
        """Decode frames, from the nearest key frame before each.

        Args:
            wanted: Frame numbers from 0 in order of presentation, ascending.

        Yields:
            The number of a frame and the frame as it is shown, turned as the file specifies: uint8 RGB (3, H, W). A
            frame that is not copied before the next one is requested may be overwritten.

        Raises:
            VideoError: Frames are damaged or missing, or are too far from key frames.
        """
        runs = self._plan(wanted)
        self._expect_affordable(runs)
        pixels = 0
        for run in runs:
            left = set(run.wanted)
            for key in dict.fromkeys((run.key, _START)):  # a seek that lands too late leaves gaps: once more from there
                self._expect_affordable([run._replace(key=key)])
                for index, frame in self._numbered(key, run.wanted):
                    pixels += frame.width * frame.height  # may differ from what the header says
                    if pixels > MAX_DECODED_PIXELS:
                        raise VideoError(self.name, "too costly")
                    if index in left:
                        left.remove(index)
                        yield index, self._to_rgb(frame)
                    if not left:
                        break
                if not left:
                    break
            else:
                raise VideoError(self.name, "damaged frames", f"{len(left)} cannot be decoded")

    def count(self) -> int:
        """Number of frames that can be decoded, by decoding all of them.

        Raises:
            VideoError: A frame cannot be decoded.
        """
        return sum(1 for _ in self._decoded(_START))

    def _open(self) -> None:
        import av

        # "file:" keeps a colon in a path from being taken for another protocol. In FFmpeg's list of formats, mov is mp4
        # too, and matroska webm.
        source = io.BytesIO(self._source) if isinstance(self._source, bytes) else f"file:{self._source}"
        try:
            self._container = av.open(
                source,
                container_options={"format_whitelist": "mov,matroska,avi,gif", "protocol_whitelist": "file"},
                options={"max_pixels": str(MAX_FRAME_PIXELS)},
                metadata_errors="replace",  # titles that are not UTF-8 must not cost the clip
            )
        except av.FFmpegError:
            if _is_image(self._source):
                raise VideoError(self.name, "still picture") from None
            raise
        streams = self._container.streams
        videos = [one for one in streams.video if not one.disposition & one.disposition.attached_pic]  # cover art
        if not videos:
            raise VideoError(self.name, "no video stream")
        self._stream = videos[0]
        for one in streams:
            if one is not self._stream:
                one.discard = av.stream.Discard.all
        codec = self._stream.codec_context
        codec.thread_count = 1  # clips are small and loaders already run side by side
        codec.options = {"max_pixels": str(MAX_FRAME_PIXELS)}
        self._pixels = codec.width * codec.height
        if not self._pixels:
            raise VideoError(self.name, "unreadable video", "without width or height")
        if self._pixels > MAX_FRAME_PIXELS:
            raise VideoError(self.name, "too costly", f"frames of {codec.width}x{codec.height}")
        self._reformatter = av.video.reformatter.VideoReformatter()  # one for all frames: each sets up tables

    def _walk(self) -> None:
        packets = [
            (packet.pts, packet.is_keyframe)
            for packet in self._container.demux(self._stream)
            if packet.size and not packet.is_discard
        ]
        self.frames = len(packets)
        if not packets:
            raise VideoError(self.name, "unreadable video", "without frames")
        kind = self._container.format.name
        # AVI keeps no times of presentation; FFmpeg's guesses are wrong where there are B-frames.
        places = {} if kind == "avi" else {pts: place for place, (pts, _) in enumerate(packets)}
        self._places = places if None not in places and len(places) == len(packets) else {}
        self._ticks = sorted(self._places)
        self._keys = [_START]
        # A GIF's frames build on each other whatever their flags say: it is always read from its start.
        if self._ticks and kind != "gif":
            self._keys += sorted(_Key(pts, place) for place, (pts, is_key) in enumerate(packets) if is_key)

    def _set_rate(self) -> None:
        stream, ticks = self._stream, self._ticks
        stated = float(stream.average_rate or 0)
        self.fps, self.times = stated or 1.0, None
        if len(ticks) < 2:
            return
        seconds, ticks = float(stream.time_base), np.array(ticks, dtype=float) - ticks[0]
        mean = ticks[-1] / (len(ticks) - 1)
        # Containers round times, and keep the rounding of those that they are copied from, down to milliseconds. A
        # rate is constant if that explains all that differs from it.
        allowed = min(max(1.0, 0.001 / seconds), mean / 4)
        for rate in filter(None, (stated, 1 / (mean * seconds))):
            self.fps = float(rate)
            if abs(ticks - np.arange(len(ticks)) / (rate * seconds)).max() <= allowed:
                return
        self.times = (ticks * seconds).tolist()

    def _plan(self, wanted: Sequence[int]) -> list[_Run]:
        runs: list[_Run] = []
        for index in wanted:
            key, place = self._reach(index)
            if runs and key.place <= runs[-1].last + _WORTH_A_SEEK:
                runs[-1].wanted.append(index)
                runs[-1] = runs[-1]._replace(last=max(runs[-1].last, place))
            else:
                runs.append(_Run(key, [index], place))
        return runs

    def _reach(self, index: int) -> tuple[_Key, int]:
        """The last key frame that is shown no later than a frame, and the frame's place in the order of decoding."""
        if not self._ticks:
            return _START, index  # without times only counting from the start is exact
        time = self._ticks[index]
        return self._keys[bisect_right(self._keys, time, key=lambda key: key.time) - 1], self._places[time]

    def _expect_affordable(self, runs: Sequence[_Run]) -> None:
        frames = sum(run.last - run.key.place + 1 for run in runs)
        if frames * self._pixels > MAX_DECODED_PIXELS:
            raise VideoError(self.name, "too costly", f"{frames} frames would be decoded")

    def _numbered(self, key: _Key, wanted: Sequence[int]) -> Iterator[tuple[int, Any]]:
        """The decoded frames from a key frame to the last wanted one, with their numbers."""
        number = {self._ticks[index]: index for index in wanted} if self._ticks else {}
        last = self._ticks[wanted[-1]] if self._ticks else wanted[-1]
        for count, frame in enumerate(self._decoded(key, number)):
            at = frame.pts if self._ticks else count
            if at is not None and at > last:
                break
            yield number.get(at, -1) if self._ticks else count, frame

    def _decoded(self, key: _Key, wanted: Mapping[int, int] | None = None) -> Iterator[Any]:
        """The frames from a key frame on, decoded, in order of presentation.

        Where times are given, H.264 frames of other times are left out if no other frame builds on them, as of most
        B-frames: they are half of what x264 writes.
        """
        with self._errors("damaged frames"):
            if key is _START:
                self._container.close()
                self._open()
            else:
                self._container.seek(key.time, stream=self._stream)
            codec = self._stream.codec_context
            for packet in self._container.demux(self._stream):
                if wanted and codec.name == "h264":
                    codec.skip_frame = "DEFAULT" if packet.pts in wanted else "NONREF"
                yield from packet.decode()

    def _to_rgb(self, frame: Any) -> Tensor:
        with self._errors("damaged frames"):
            rgb = self._reformatter.reformat(frame, format="rgb24", threads=1).to_ndarray()
            if self._turn is None:
                # Of a small copy: a frame that was asked for its side data refers to itself, and stays in memory until
                # Python looks for such.
                self._turn = _turn_of(frame.reformat(16, 16, threads=1))
        transposed, flipped = self._turn
        image = torch.from_numpy(rgb).permute((2, 1, 0) if transposed else (2, 0, 1))
        return image.flip(flipped) if flipped else image

    @contextmanager
    def _errors(self, reason_: Reason) -> Iterator[None]:
        """FFmpeg and PyAV tell of bad content in dozens of ways, down to failed assertions; here it becomes one."""
        try:
            yield
        except InputError:
            raise
        except Exception as error:
            detail = getattr(error, "strerror", None) or reason(error)
            raise VideoError(self.name, reason_, detail) from error


def _turn_of(frame: Any) -> tuple[bool, list[int]]:
    """Whether a frame is shown transposed, and along which axes of (3, H, W) it is then flipped: its display matrix.

    The matrix (a, b, u, c, d, v, x, y, w), as in ISO 14496-12 and FFmpeg's display.h, moves what is at (p, q), p to
    the right and q downwards, to (a p + c q + x, b p + d q + y). So that of a phone held upright, a = d = 0, b = 1,
    c = -1, moves what was on the right downwards: a quarter turn clockwise.
    """
    matrices = [bytes(data) for data in frame.side_data if data.type.name == "DISPLAYMATRIX"]
    if not matrices:
        return False, []
    a, b, _, c, d = np.frombuffer(matrices[0], "=i4")[:5].tolist()
    transposed = abs(b) + abs(c) > abs(a) + abs(d)
    if transposed:
        a, d = c, b
    return transposed, [axis for axis, sign in ((1, d), (2, a)) if sign < 0]


def _is_image(source: Path | bytes) -> bool:
    from PIL import Image

    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source):
            return True
    except Exception:  # an image that is damaged or huge, or no image
        return False
