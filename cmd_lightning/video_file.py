"""Decode video files with PyAV (FFmpeg): any frames of them, exactly, within bounds, whatever the bytes hold.

FFmpeg guesses the format from the content, whatever the name says, and some formats are lists of other files and
addresses that it would open. So only containers that hold their frames themselves are let in, and no protocol but
local files.
"""

import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from fractions import Fraction
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal

import numpy as np

from cmd_lightning.compat import container_crop
from cmd_lightning.errors import InputError, reason
from cmd_lightning.gif import has_pixels
from cmd_lightning.video_index import START, FrameIndex, Key, Mark, are_times_whole, lead_of, without_lost
from cmd_lightning.viewing import Screen, Viewing, deinterlaced

MAX_DECODED_PIXELS = 2**34  # in a read, wanted or not: half a minute of one core for H.264, five minutes of 1080p
MAX_FRAME_PIXELS = 2**26  # 8192x8192: twice 8K

Reason = Literal["empty file", "unreadable video", "still image", "no video stream", "damaged frames", "too costly"]

_FORMATS = "mov,matroska,avi,gif,apng,mpegts,mpeg,asf,flv,ogg"  # of FFmpeg; mov is mp4 and 3gp too, matroska webm
_WITHOUT_INDEX = ("mpegts", "mpeg", "asf", "flv", "ogg")
_KEPT = 2**24  # bytes of packets, at most, that stay in memory for decoding; those of longer files are read again
_ALPHA_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}  # FFmpeg's own decoders of these leave transparency out


class VideoError(InputError):
    """A source that cannot be decoded.

    Attributes:
        reason: Why, in one or two words; bad samples are counted by it.
    """

    def __init__(self, name: str, reason: Reason, detail: str = "") -> None:
        super().__init__(f"{name}: {reason}{f' ({detail})' if detail else ''}; replace or remove the file")
        self.reason = reason


class VideoFile:
    """A video file, open, of which any frames can be decoded; its attributes are those of `VideoReader`.

    Opening reads the packets without decoding them: that gives the exact number of frames, their times and the key
    frames in every container (headers say nothing in mkv and gif, and are wrong in some mp4). In AVI and in files
    without times, frame n is at n / fps.

    Args:
        source: A file that exists, or the bytes of one.
        name: What errors call it.
        viewing: How its frames are shown.

    Raises:
        VideoError: It cannot be read as video.
    """

    def __init__(self, source: Path | bytes, name: str, viewing: Viewing) -> None:
        self.name, self._source, self._viewing = name, source, viewing
        self._container: Any = None
        self._packets: list[Any] = []  # all of them, if they are few
        self._lead = 0  # packets at the start that may build on frames that were cut off
        if not (len(source) if isinstance(source, bytes) else source.stat().st_size):
            raise VideoError(name, "empty file")
        with self._errors("unreadable video"):
            self._open()
            self._screen = Screen(viewing, *self._shape())
            self.seen = self._screen.seen
            self._index = self._walk()
            self.frames = self._index.frames
            self.fps, self.times = self._index.rate(float(self._stream.average_rate or 0), self._stream.time_base)

    def __del__(self) -> None:
        """Closes the file: PyAV's objects refer to each other, and stay with their frames until Python finds such."""
        if self._container is not None:
            self._container.close()

    def decode(self, wanted: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        """Decode the frames of these numbers, ascending, from the nearest key frame before each.

        Yields:
            The number of a frame and the frame as it is shown, turned as the file specifies: uint8 RGB (H, W, 3).

        Raises:
            VideoError: Frames are damaged or missing, or are too far from key frames.
        """
        frames = self._frames(wanted)
        if self._viewing.deinterlace:
            near = {at for index in wanted for at in (index - 1, index, index + 1) if 0 <= at < self.frames}
            frames = deinterlaced(self._frames(sorted(near)))
        asked = set(wanted)
        with self._errors("damaged frames"):
            for index, frame in frames:
                if index in asked:
                    yield index, self._screen.show(frame)

    def _frames(self, wanted: Sequence[int]) -> Iterator[tuple[int, Any]]:
        """The frames of these numbers, ascending, as they are stored."""
        runs = self._index.plan(wanted)
        self._expect_affordable(sum(run.cost for run in runs))
        pixels = 0
        for run in runs:
            left = set(run.wanted)
            for key in dict.fromkeys((run.key, START)):  # a seek that lands too late leaves gaps: again from the start
                if not left:
                    break
                self._expect_affordable(run._replace(key=key).cost)
                for index, frame in self._numbered(key, run.wanted):
                    pixels += frame.width * frame.height  # may differ from what the header says
                    if pixels > MAX_DECODED_PIXELS:
                        raise VideoError(self.name, "too costly")
                    if index in left:
                        left.remove(index)
                        yield index, frame
                    if not left:
                        break
            if left:
                raise VideoError(self.name, "damaged frames", f"{len(left)} cannot be decoded")

    def count(self) -> int:
        """Number of frames, by decoding all of them; raises `VideoError` if one is damaged."""
        number = 0
        for frame in self._decoded(START):
            self._screen.note(frame)
            number += 1
        return number

    def _open(self) -> None:
        import av

        # "file:" keeps a colon in a path from being taken for another protocol.
        source = io.BytesIO(self._source) if isinstance(self._source, bytes) else f"file:{self._source}"
        try:
            self._container = av.open(
                source,
                container_options={"format_whitelist": _FORMATS, "protocol_whitelist": "file"},
                options={"max_pixels": str(MAX_FRAME_PIXELS)},
                metadata_errors="replace",  # titles that are not UTF-8 must not cost the clip
            )
        except av.FFmpegError:
            if _is_image(self._source):
                raise VideoError(self.name, "still image") from None
            raise
        streams = self._container.streams
        videos = [one for one in streams.video if not one.disposition & one.disposition.attached_pic]  # cover art
        if not videos:
            raise VideoError(self.name, "no video stream")
        # As FFmpeg chooses: the default one, and of several the largest.
        default = av.stream.Disposition.default
        self._stream = max(videos, key=lambda one: (bool(one.disposition & default), one.width * one.height))
        for one in streams:
            if one is not self._stream:
                one.discard = av.stream.Discard.all
        codec = self._stream.codec_context
        if self._stream.metadata.get("alpha_mode") == "1" and codec.name in _ALPHA_DECODERS:
            codec = av.CodecContext.create(_ALPHA_DECODERS[codec.name], "r")
        codec.thread_count = 1  # clips are small and loaders already run side by side
        codec.options = {"max_pixels": str(MAX_FRAME_PIXELS)}
        self._decoder: Any = codec

    def _shape(self) -> tuple[tuple[int, int, int, int], Fraction]:
        """What the container cuts off, left, right, top and bottom, and the width of a pixel relative to its height."""
        width, height = self._stream.codec_context.width, self._stream.codec_context.height
        self._pixels = width * height
        if not self._pixels:
            raise VideoError(self.name, "unreadable video", "without width or height")
        aspect = self._stream.sample_aspect_ratio or Fraction(1)
        if self._pixels * max(aspect, 1 / aspect) > MAX_FRAME_PIXELS:
            raise VideoError(self.name, "too costly", f"frames of {width}x{height}, pixels of {aspect}")
        left, right, top, bottom = crop = container_crop(self._container, self._stream.index)
        if left + right >= width or top + bottom >= height:
            crop = 0, 0, 0, 0
        return crop, aspect

    def _walk(self) -> FrameIndex:
        """Find the frames that can be decoded, their times, and the key frames."""
        marks, packets, size = [], [], 0
        for packet in self._container.demux(self._stream):
            if packet.size:
                marks.append(Mark(packet.pts, packet.is_keyframe, packet.is_discard, packet.dts))
                size += packet.size
            if size <= _KEPT:
                packets.append(packet)
        kind = self._container.format.name
        # AVI keeps no times of presentation, ASF only one for each frame: FFmpeg's guesses are wrong where there are
        # B-frames. Files that were put one after the other begin again at an earlier time. Frames of
        # animated images build on each other whatever their flags say: these are always read from their start.
        guessed = kind == "avi" or (kind == "asf" and self._decoder.has_b_frames)
        timed = not guessed and (kind not in _WITHOUT_INDEX or are_times_whole(marks))
        animated = kind in ("gif", "apng")
        self._lead = lead = 0 if animated else lead_of(marks, timed)
        self._expect_affordable(lead)
        if lead and timed:
            marks = without_lost(marks, lead, (frame.pts for frame in self._decoded(START)))
        # A palette may come with the first packet alone, as QuickTime's does.
        seekable = not animated and self._stream.codec_context.pix_fmt != "pal8"
        index = FrameIndex([mark for mark in marks if not mark.hidden], timed, seekable)
        # A frame's place is that of its packet if each packet is a frame; the last packet, without content, is the end.
        self._packets = packets if len(packets) == index.frames + 1 else []
        if (lead or kind in _WITHOUT_INDEX) and not index.ticks:
            self._expect_affordable(len(marks))
            index.frames = self.count()  # a packet may hold half a frame, a field
        if not index.frames:
            raise VideoError(self.name, "damaged frames" if lead else "unreadable video", "none can be decoded")
        if kind == "gif" and not has_pixels(self._source):
            raise VideoError(self.name, "empty file")
        return index

    def _expect_affordable(self, frames: int) -> None:
        if frames * self._pixels > MAX_DECODED_PIXELS:
            raise VideoError(self.name, "too costly", f"{frames} frames would be decoded")

    def _numbered(self, key: Key, wanted: Sequence[int]) -> Iterator[tuple[int, Any]]:
        """The decoded frames from a key frame to the last wanted one, with their numbers."""
        ticks = self._index.ticks
        numbers = {ticks[index] if ticks else index: index for index in wanted}
        last = max(numbers)
        for count, frame in enumerate(self._decoded(key, numbers if ticks else {})):
            at = frame.pts if ticks else count
            if at is not None and at > last:
                break
            yield numbers.get(at, -1), frame

    def _decoded(self, key: Key, wanted: Mapping[int, int] | None = None) -> Iterator[Any]:
        """The frames from a key frame on, decoded, in order of presentation.

        Where times are given, H.264 frames of other times are left out if no other frame builds on them, as of most
        B-frames: they are half of what x264 writes.
        """
        with self._errors("damaged frames"):
            packets = self._packets_from(key)
            needed = wanted if self._decoder.name == "h264" else None
            for place, packet in enumerate(packets):
                if needed:
                    self._decoder.skip_frame = "DEFAULT" if packet.pts in needed else "NONREF"
                try:
                    frames = self._decoder.decode(packet)
                except ValueError:  # PyAV's InvalidDataError
                    if key is not START or place >= self._lead:
                        raise
                    continue  # it builds on frames that were cut off
                yield from frames

    def _packets_from(self, key: Key) -> Iterable[Any]:
        """The packets from a key frame on, for a decoder that begins there."""
        if key is START:
            self._container.close()
            self._open()
            return self._container.demux(self._stream)
        self._decoder.flush_buffers()
        if self._packets:
            return islice(self._packets, key.place, None)
        self._container.seek(self._place_of(key), stream=self._stream)
        # A seek lands before the key frame, or, without an index in the file, anywhere near it.
        packets = self._container.demux(self._stream)
        for packet in packets:
            if packet.pts == key.time:
                return chain([packet], packets)
            if None not in (packet.dts, key.dts) and packet.dts > key.dts:
                break
        return []

    def _place_of(self, key: Key) -> float:
        """What to seek to for a key frame: files without an index are searched by times of decoding."""
        kind = self._container.format.name
        if key.dts is None or kind not in _WITHOUT_INDEX:
            return key.time
        # A packet of a program stream may begin with the frame before, so it begins a second earlier.
        return key.dts - (round(1 / self._stream.time_base) if kind == "mpeg" else 0)

    @contextmanager
    def _errors(self, reason_: Reason) -> Iterator[None]:
        """Turns the dozens of ways in which FFmpeg and PyAV report bad content into `VideoError`."""
        try:
            yield
        except InputError:
            raise
        except Exception as error:
            detail = getattr(error, "strerror", None) or reason(error)
            raise VideoError(self.name, reason_, detail) from error


def _is_image(source: Path | bytes) -> bool:
    from PIL import Image

    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source):
            return True
    except Exception:  # an image that is damaged or huge, or no image
        return False
