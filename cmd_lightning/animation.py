"""Animated WebP files, read by Pillow, as FFmpeg reads still ones only; and which image files are animations."""

import io
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np

from cmd_lightning.errors import InputError
from cmd_lightning.image_io import shown
from cmd_lightning.video_file import MAX_DECODED_PIXELS, MAX_FRAME_PIXELS, VideoError
from cmd_lightning.video_index import FrameIndex, Mark
from cmd_lightning.viewing import Seen, Viewing

_HEAD = 2**16  # bytes; what comes before the first image of a PNG, as its colour profile, is shorter
_UNTIMED = 100  # milliseconds of a frame that states none, as in browsers


class WebPFile:
    """An animated WebP of which any frames can be decoded, with the interface of a `VideoFile`.

    The heads of the file's chunks give the number of frames and their times; nothing is decoded for that.

    Raises:
        VideoError: It is a still image, or its frames are too large.
    """

    def __init__(self, source: Path | bytes, name: str, viewing: Viewing) -> None:
        self._name, self._viewing, self.seen = name, viewing, Seen()
        self._data = source if isinstance(source, bytes) else source.read_bytes()
        starts = [0]
        width = height = 0
        for kind, head in _chunks(self._data):
            if kind == b"VP8X":
                width, height = (int.from_bytes(head[at : at + 3], "little") + 1 for at in (4, 7))
            elif kind == b"ANMF":
                starts.append(starts[-1] + (int.from_bytes(head[12:15], "little") or _UNTIMED))
        self.frames, self._pixels = len(starts) - 1, width * height
        if self.frames < 2:
            raise VideoError(name, "still image")
        if self._pixels > MAX_FRAME_PIXELS:
            raise VideoError(name, "too costly", f"frames of {width}x{height}")
        index = FrameIndex([Mark(start, True, False) for start in starts[:-1]], timed=True, seekable=False)
        self.fps, self.times = index.rate(0.0, Fraction(1, 1000))

    def decode(self, wanted: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        """Decode frames; see `VideoFile.decode`. Each builds on those before it."""
        from PIL import Image

        if (wanted[-1] + 1) * self._pixels > MAX_DECODED_PIXELS:
            raise VideoError(self._name, "too costly", f"{wanted[-1] + 1} frames would be decoded")
        try:
            with Image.open(io.BytesIO(self._data)) as image:
                for index in wanted:
                    image.seek(index)
                    frame, transparent = shown(image, self._name, self._viewing.background)
                    self.seen.transparent |= transparent
                    yield index, frame.permute(1, 2, 0).numpy()
        except InputError:
            raise
        except Exception as error:  # of many kinds: Pillow's plugins raise what they run into
            raise VideoError(self._name, "damaged frames", "not readable as WebP") from error

    def count(self) -> int:
        """Number of frames that can be decoded, by decoding all of them."""
        return sum(1 for _ in self.decode(range(self.frames)))


def is_webp(source: Path | bytes) -> bool:
    """Whether a file, or the bytes of one, is WebP, still or animated."""
    head = _head(source, 12)
    return head[:4] == b"RIFF" and head[8:] == b"WEBP"


def is_animation(path: Path) -> bool:
    """Whether a file is an animated PNG or WebP, by its first chunks."""
    head = _head(path, _HEAD)
    if head[:8] == b"\x89PNG\r\n\x1a\n":
        return b"acTL" in head.partition(b"IDAT")[0]
    return is_webp(head) and not is_still_webp(head)


def is_still_webp(head: bytes) -> bool:
    """Whether a file that begins with these 21 bytes or more is a WebP that is not animated."""
    return is_webp(head) and not (head[12:16] == b"VP8X" and int.from_bytes(head[20:21], "big") & 2)


def _head(source: Path | bytes, size: int) -> bytes:
    if isinstance(source, bytes):
        return source[:size]
    with source.open("rb") as file:
        return file.read(size)


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The kind of each whole chunk of a WebP, and its first bytes."""
    place = 12
    while place + 24 <= len(data):
        size = int.from_bytes(data[place + 4 : place + 8], "little")
        yield data[place : place + 4], data[place + 8 : place + 24]
        place += 8 + size + size % 2
