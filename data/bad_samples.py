"""Bad samples: what they are called, and how many a run accepts."""

import warnings
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from lightning_utilities.core.rank_zero import rank_zero_warn

from cmd_lightning.data.index import Shard
from cmd_lightning.errors import InputError

_ENOUGH = 10_000  # samples that show the share of bad ones, although these are often together, in a bad shard


class Bad(NamedTuple):
    """A sample that could not be used: the reason it is counted under, and where it is."""

    reason: str
    place: str


class BadShare:
    """Counts the bad samples of a pass, and ends the run where there are too many.

    The accepted share of bad samples is that of a whole pass, or of the samples seen so far once these are 10,000.
    Samples that are known to be bad count as if they were spread evenly among the others.
    """

    def __init__(self, most: float, shards: Sequence[Shard], samples: int) -> None:
        self.most, self.samples = most, samples
        self.good, self.known = sum(shard.good for shard in shards), known_bad(shards)
        self.seen, self.bad = 0, list[Bad]()
        self._judge(samples)

    def add(self, seen: int, bad: Sequence[Bad]) -> None:
        self.seen += seen
        self.bad += bad
        self._judge(max(self.seen, min(self.samples, _ENOUGH)))

    def report(self) -> None:
        """Warn of bad samples at the end of a pass."""
        if self.bad:
            listed = list_bad(self.bad, most=5)
            warnings.warn(f"{len(self.bad)} of {self.seen} samples were bad and replaced: {listed}", stacklevel=3)
        if self.known:
            known = describe(Counter(sample.reason for sample in self.known))
            rank_zero_warn(f"{len(self.known)} samples known to be bad were left out: {known}")

    def _judge(self, samples: int) -> None:
        known = len(self.known) * samples / self.good if self.known else 0
        if len(self.bad) + known > self.most * (samples + known):
            found = f"{len(self.bad)} of {samples}{f' and {len(self.known)} known before' if self.known else ''}"
            problem = f"too many samples are bad, {found}: {list_bad(self.bad + self.known, most=3)}"
            raise InputError(f"data.max_bad_share {self.most:g}: {problem}; fix or remove them, or raise the share")


def known_bad(shards: Sequence[Shard]) -> list[Bad]:
    """What the index of the shards knows to be bad; a selection leaves out more, so it counts none."""
    plain = [shard for shard in shards if shard.selection is None]
    return [Bad(reason, f"{shard.url} {key}") for shard in plain for key, reason in shard.bad.items()]


def describe(bad: dict[str, int]) -> str:
    """Counts by reason in words: "3 too short, 1 unreadable video"."""
    return ", ".join(f"{number} {reason}" for reason, number in sorted(bad.items()))


def list_bad(bad: Sequence[Bad], most: int = 20) -> str:
    """Counts by reason, and which they are: "2 too short, 1 no video (a.tar 0003; a.tar 0007; b.tar 0001)".

    At most `most` of them are named.
    """
    places = list(dict.fromkeys(sample.place for sample in bad))
    more = f"; and {len(places) - most} more" if len(places) > most else ""
    return f"{describe(Counter(sample.reason for sample in bad))} ({'; '.join(places[:most])}{more})"
