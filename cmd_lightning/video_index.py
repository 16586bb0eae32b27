"""The frames of a video file by its packets: which can be decoded, their times, and the key frames to begin at.

Files that are cut without encoding begin anywhere: before the first key frame, or with one after which, as in the open
GOPs that encoders of H.264, HEVC and MPEG-2 write, frames follow that are shown before it and build on frames before
the cut.
"""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

_WORTH_A_SEEK = 8  # frames: fewer are decoded about as fast as a decoder restarts


class Mark(NamedTuple):
    """What is known of a packet without decoding it."""

    pts: int | None  # time of presentation, in ticks
    is_key: bool  # whether its frame builds on no other
    hidden: bool  # whether it is decoded for others alone, and not shown
    dts: int | None = None  # time of decoding, in ticks


class Key(NamedTuple):
    """A key frame."""

    time: float  # of presentation
    place: int  # in the order of decoding
    dts: int | None = None  # time of decoding


START = Key(-float("inf"), 0)


class Run(NamedTuple):
    """Wanted frames that are decoded in one go."""

    key: Key  # to begin at
    wanted: list[int]
    last: int  # place of the last one

    @property
    def cost(self) -> int:
        """Frames that are decoded."""
        return self.last - self.key.place + 1


class FrameIndex:
    """The frames of a file in order of presentation.

    `ticks` are their times of presentation, ascending; empty where times are unknown or not unique, so that frames can
    only be counted from the start.

    Args:
        marks: The packets that are shown, in order of decoding.
        timed: Whether times of presentation are reliable.
        seekable: Whether decoding may begin at a key frame.
    """

    def __init__(self, marks: Sequence[Mark], timed: bool, seekable: bool) -> None:
        self.frames = len(marks)
        places = {mark.pts: place for place, mark in enumerate(marks)}
        self._places: dict[Any, int] = places if timed and None not in places and len(places) == len(marks) else {}
        self.ticks = sorted(self._places)
        self._keys = [START]
        if seekable:
            shown = ((time, self._places[time]) for time in self.ticks)
            self._keys += [Key(time, place, marks[place].dts) for time, place in shown if marks[place].is_key]

    def rate(self, stated: float, duration: Fraction) -> tuple[float, list[float] | None]:
        """Frames per second, and the seconds of each frame from the first where the rate varies, else None.

        `stated` is the mean rate that the file states, 0 for none; `duration` that of a tick, in seconds.
        """
        if len(self.ticks) < 2:
            return stated or 1.0, None
        seconds, first = float(duration), self.ticks[0]
        ticks = [float(tick - first) for tick in self.ticks]
        mean = ticks[-1] / (len(ticks) - 1)
        # Containers round times, and keep the rounding of those that they are copied from, down to milliseconds. A
        # rate is constant if that explains all that differs from it.
        allowed = min(max(1.0, 0.001 / seconds), mean / 4)
        own = 1 / (mean * seconds)
        for rate in filter(None, (stated, own)):
            per_tick = rate * seconds
            if all(abs(tick - number / per_tick) <= allowed for number, tick in enumerate(ticks)):
                return rate, None
        return own, [tick * seconds for tick in ticks]

    def plan(self, wanted: Sequence[int]) -> list[Run]:
        """The runs that give the frames of these numbers, ascending."""
        runs: list[Run] = []
        for index in wanted:
            key, place = self._reach(index)
            if runs and key.place <= runs[-1].last + _WORTH_A_SEEK:
                runs[-1].wanted.append(index)
                runs[-1] = runs[-1]._replace(last=max(runs[-1].last, place))
            else:
                runs.append(Run(key, [index], place))
        return runs

    def _reach(self, index: int) -> tuple[Key, int]:
        """The last key frame that is shown no later than a frame, and the frame's place in the order of decoding."""
        if not self.ticks:
            return START, index
        time = self.ticks[index]
        return self._keys[bisect_right(self._keys, time, key=lambda key: key.time) - 1], self._places[time]


def are_times_whole(marks: Sequence[Mark]) -> bool:
    """Whether each packet has a time of presentation, and those of decoding never go back."""
    decoding = [mark.dts for mark in marks if mark.dts is not None]
    return decoding == sorted(decoding) and all(mark.pts is not None for mark in marks)


def lead_of(marks: Sequence[Mark], timed: bool) -> int:
    """Number of packets at the start of which some may build on frames that were cut off; 0 where none does.

    All packets are given, in order of decoding; `timed` is whether their times of presentation are reliable.
    """
    first = next((place for place, mark in enumerate(marks) if mark.is_key), len(marks))
    end = first + 1
    if timed and end < len(marks) and (time := marks[first].pts) is not None:
        while end < len(marks) and ((pts := marks[end].pts) is None or pts < time):
            end += 1
    return min(end, len(marks)) if end > 1 else 0


def without_lost(marks: Sequence[Mark], lead: int, decoded: Iterable[int | None]) -> list[Mark]:
    """The packets, all given in order of decoding, without those of the `lead` at the start that cannot be decoded.

    `decoded` are the times of the frames that a decoder gives from the start on; read up to the first key frame.
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
