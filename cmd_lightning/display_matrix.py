"""The display matrix of a video, with which phones store how its frames are turned."""

from typing import Any, NamedTuple

import numpy as np
from torch import Tensor


class Turn(NamedTuple):
    """How frames are turned upright: transposed or not, then flipped along axes of (3, H, W)."""

    transposed: bool
    flipped: list[int]

    def __call__(self, frame: Tensor) -> Tensor:
        """Turn a frame (3, H, W) upright."""
        frame = frame.transpose(1, 2) if self.transposed else frame
        return frame.flip(self.flipped) if self.flipped else frame


def turn_of(frame: Any) -> Turn:
    """The quarter turns that a frame's display matrix asks for.

    The matrix (a, b, u, c, d, v, x, y, w), as in ISO 14496-12 and FFmpeg's display.h, moves what is at (p, q), p to
    the right and q downwards, to (a p + c q + x, b p + d q + y). So that of a phone held upright, a = d = 0, b = 1,
    c = -1, moves what lay to the right downwards: a quarter turn clockwise.
    """
    matrices = [bytes(data) for data in frame.side_data if data.type.name == "DISPLAYMATRIX"]
    if not matrices:
        return Turn(False, [])
    a, b, _, c, d = np.frombuffer(matrices[0], "=i4")[:5].tolist()
    transposed = abs(b) + abs(c) > abs(a) + abs(d)
    if transposed:
        a, d = c, b
    return Turn(transposed, [axis for axis, sign in ((1, d), (2, a)) if sign < 0])
