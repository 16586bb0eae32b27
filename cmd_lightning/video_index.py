"""Where each frame of a video file is: its time, and the key frame to decode it from."""

from bisect import bisect_right
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, NamedTuple

from cmd_lightning.video_start import Mark

_WORTH_A_SEEK = 8  # frames: fewer are decoded about as fast as a decoder restarts


class Key(NamedTuple):
    """A key frame: its time of presentation, its place in the order of decoding, and its time of decoding."""

    time: float
    place: int
    dts: int | None = None


START = Key(-float("inf"), 0)


class Run(NamedTuple):
    """Wanted frames that are decoded in one go, the key frame to begin at, and the place of the last one."""

    key: Key
    wanted: list[int]
    last: int


class FrameIndex:
    """The frames of a file in order of presentation.

    Attributes:
        frames: Number of frames.
        ticks: Time of presentation of each frame, ascending; empty where times are unknown or not unique, so that
            frames can only be counted from the start.

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

        Args:
            stated: The mean rate that the file states; 0 for none.
            duration: Of a tick, in seconds.
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
