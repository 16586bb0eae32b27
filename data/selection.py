"""Which clips of a source are evaluated, and which frames of them."""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from cmd_lightning.data.clip_arrays import LAYOUTS
from cmd_lightning.data.clips import BadSample, choose_frames
from cmd_lightning.data.plan import stable_hash
from cmd_lightning.errors import InputError, check_positive


@dataclass(frozen=True)
class Selection:
    """Which clips of a source are taken, and which frames of them.

    Attributes:
        frames: Frames of a clip.
        stride: Distance of the frames in source frames; 1 where neither it nor `fps` is given.
        fps: Instead, frames per second to sample at; a slower source repeats frames.
        size: (H, W) in pixels, scaled to cover it and cropped in the middle; None keeps the size.
        random_start: Draw where a clip begins, from (seed, key); otherwise it begins at frame 0.
        num: Number of clips; None takes all.
        choose: Which ones if there are more: a random subset, or the first in the order of the source (natural, by
            path), which is what StyleGAN-V takes (of UCF-101 they show 15 of the 101 classes).
        seed: Of the choice and of the beginnings.
        layout: Axes of an array, "NTHWC", "NCTHW" or "NTCHW"; None finds them by the one of size 3.

    Raises:
        InputError: A value is out of range, or stride and fps are both given.
    """

    frames: int = 16
    stride: int | None = None
    fps: float | None = None
    size: tuple[int, int] | None = None
    random_start: bool = False
    num: int | None = None
    choose: Literal["random", "first"] = "random"
    seed: int = 0
    layout: str | None = None

    def __post_init__(self) -> None:
        """Check the values."""
        counts = {"frames": self.frames, "stride": self.stride, "num": self.num}
        check_positive(**{name: count for name, count in counts.items() if count is not None})
        if self.fps is not None and not 0 < self.fps < math.inf:
            raise InputError(f"fps {self.fps}: must be a number above 0, e.g. 8")
        if self.fps is not None and self.stride is not None:
            raise InputError(f"stride {self.stride}, fps {self.fps}: give one of the two")
        if self.size is not None and (len(self.size) != 2 or min(self.size) < 1):
            raise InputError(f"size {self.size}: give height and width in pixels, e.g. 64 64")
        if self.choose not in ("random", "first"):
            raise InputError(f"choose {self.choose}: give random or first")
        if self.layout not in (None, *LAYOUTS):
            raise InputError(f"layout {self.layout}: give one of {', '.join(LAYOUTS)}")

    def clips(self, there: int, path: str) -> list[int]:
        """Numbers of the clips to take of those in a source, ascending; `InputError` if there are fewer than `num`."""
        if self.num is None:
            return list(range(there))
        if self.num > there:
            raise InputError(f"num {self.num}: {path} has {there} clips; give num {there} or less (never repeated)")
        if self.choose == "first":
            return list(range(self.num))
        return sorted(random.Random(stable_hash("choose", self.seed)).sample(range(there), self.num))

    def frame_numbers(
        self, available: int, rate: float, key: str, title: str, times: Sequence[float] | None = None
    ) -> tuple[list[int], float]:
        """Numbers of the frames to take of a clip, and their distance in source frames.

        Its `rate` is 0.0 if unknown; where it varies, `fps` goes by the `times` of its frames, a stride does not. A
        random start is drawn from its `key`; errors call it `title`.
        """
        if self.fps and not rate:
            raise InputError(f"fps {self.fps:g}: nothing tells the rate of {title}; give a stride instead")
        step = rate / self.fps if self.fps else self.stride or 1
        chance = random.Random(stable_hash("start", self.seed, key)) if self.random_start else None
        try:
            return choose_frames(available, self.frames, step, chance, times if self.fps else None), step
        except BadSample as reason:
            needed = int((self.frames - 1) * step + 0.5) + 1
            raise InputError(
                f"frames {self.frames}: {title} has {available} frames and {needed} are needed; give frames "
                f"{int((available - 1) / step) + 1} or less, or remove it"
            ) from reason
