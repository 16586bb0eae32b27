"""Whether a GIF holds any pixels: FFmpeg decodes an image block without data as a frame."""

from pathlib import Path

_HEADER = 13  # signature and screen descriptor


def has_pixels(source: Path | bytes) -> bool:
    """Whether any image block of a GIF has data; True for other files, and where a block is damaged."""
    data = source if isinstance(source, bytes) else source.read_bytes()
    if data[:3] != b"GIF" or len(data) < _HEADER:
        return True
    place = _HEADER + _palette_bytes(data[10])
    while place < len(data) and data[place] in b"!,":
        if data[place : place + 1] == b"!":  # an extension: a label, then blocks
            place = _end_of_blocks(data, place + 2)
            continue
        if place + 11 > len(data):
            return True
        place += 11 + _palette_bytes(data[place + 9])  # the image's descriptor and palette, and a byte for the codes
        if data[place : place + 1] not in (b"", b"\0"):
            return True
        place += 1
    return not (place >= len(data) or data[place : place + 1] == b";")


def _palette_bytes(flags: int) -> int:
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _end_of_blocks(data: bytes, place: int) -> int:
    """The place after blocks of a length and as many bytes, of which the last is empty."""
    while place < len(data) and data[place]:
        place += 1 + data[place]
    return place + 1
