"""Which frames at the start of a file can be decoded: files that are cut without encoding begin anywhere.

Such a file may begin before its first key frame. Or with one after which, as in the open groups of pictures that
encoders of H.264, HEVC and MPEG-2 write, frames follow that are shown before it and build on frames before the cut.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple


class Mark(NamedTuple):
    """What is known of a packet without decoding it.

    Attributes:
        pts: Time of presentation, in ticks.
        is_key: Whether its frame builds on no other.
        hidden: Whether it is decoded for others alone, and not shown.
        dts: Time of decoding, in ticks.
    """

    pts: int | None
    is_key: bool
    hidden: bool
    dts: int | None = None


def lead_of(marks: Sequence[Mark], timed: bool) -> int:
    """Number of packets at the start of which some may build on frames that were cut off; 0 where none does.

    Args:
        marks: All packets in order of decoding.
        timed: Whether times of presentation are reliable.
    """
    first = next((place for place, mark in enumerate(marks) if mark.is_key), len(marks))
    end = first + 1
    if timed and end < len(marks) and (time := marks[first].pts) is not None:
        while end < len(marks) and ((pts := marks[end].pts) is None or pts < time):
            end += 1
    return min(end, len(marks)) if end > 1 else 0


def without_lost(marks: Sequence[Mark], lead: int, decoded: Iterable[int | None]) -> list[Mark]:
    """The packets without those that cannot be decoded.

    Args:
        marks: All packets in order of decoding.
        lead: Number of those in doubt, at the start.
        decoded: Times of the frames that a decoder gives from the start on; read up to the first key frame.
    """
    first = next((mark.pts for mark in marks if mark.is_key), None)
    found: list[int] = []
    for pts in decoded:
        if pts is None:
            continue
        first = pts if first is None else first
        if pts >= first:
            first = pts  # later than the key frame where that is one of a gradual refresh, complete after some frames
            break
        if not found or pts > found[-1]:  # like FFmpeg, which drops what comes late
            found.append(pts)
    if first is None:  # nothing is decoded
        return [*marks[lead:]]
    doubted = [mark for mark in marks[:lead] if mark.pts is not None]
    return [mark for mark in (*doubted, *marks[lead:]) if mark.pts is None or mark.pts in found or mark.pts >= first]
