"""What stands in for a bad sample."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from itertools import islice
from typing import TYPE_CHECKING, Any

from cmd_lightning.data.bad_samples import Bad, list_bad
from cmd_lightning.data.clips import BadSample
from cmd_lightning.data.plan import Interval
from cmd_lightning.data.tar import Sample
from cmd_lightning.errors import InputError

if TYPE_CHECKING:
    from cmd_lightning.data.stream import ShardStream

_STANDBY = 8  # samples kept to stand in for a bad one
_SEARCHED = 1000  # samples tried for one that can stand in where none of these can


class Standby:
    """Decodes the samples of a reader and finds a stand-in for a bad one, the same one wherever a resume began.

    It is the last good one of the eight before it, else the first good one of the reader, else of all shards.
    """

    def __init__(self, stream: ShardStream) -> None:
        self._stream = stream
        self.before: deque[Sample] = deque(maxlen=_STANDBY)
        self._first_good: Sample | None = None

    def decode(self, sample: Sample) -> tuple[dict[str, Any], list[Bad]]:
        """The clip of a sample; or of one that stands in for it, and why."""
        try:
            return self._stream.decode(sample), []
        except BadSample as reason:
            return self._replace(sample.key), [Bad(str(reason), sample.place)]
        finally:
            self.before.append(sample)

    def _replace(self, key: str) -> dict[str, Any]:
        for candidate in reversed(self.before):
            try:
                return self._stream.decode(candidate, instead_of=key)
            except BadSample:
                continue
        if self._first_good is None:
            self._first_good = self._find_first_good()
        return self._stream.decode(self._first_good, instead_of=key)

    def _find_first_good(self) -> Sample:
        intervals: Iterable[Interval]
        for intervals in (self._stream.planned_shards(), self._stream.everything()):
            bad = []
            for sample in islice(self._stream.stages(self._stream.read(list(intervals))), _SEARCHED):
                try:
                    self._stream.decode(sample)
                    return sample
                except BadSample as reason:
                    bad.append(Bad(str(reason), sample.place))
        remedy = "lower data.num_frames, or data.stride, or raise data.fps; or " if "too short" in dict(bad) else ""
        if "still picture" in dict(bad):
            remedy = "set data.images still for clips without motion; or "
        raise InputError(
            f"no usable clip among {len(bad)}: {list_bad(bad, most=1)}; {remedy}run `shards check` on these shards"
        )
