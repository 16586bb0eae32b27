"""The metrics under test, each split into features of a clip and a statistic of many."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from benchmarks.shapes.yardstick.corruptions import Clips
from cmd_lightning.metrics.frechet import frechet_distance_from_features
from cmd_lightning.metrics.kernel import kernel_distance
from cmd_lightning.shapes.features import ShapesFeatures
from cmd_lightning.shapes.reader import Reading, ShapesReader
from cmd_lightning.shapes.scenes import Level
from cmd_lightning.shapes.sheets import SheetSimilarity

BATCH = 64
RESAMPLES = 40  # of the corrupted clips, with replacement, for spreads and tolerances
Networks = dict[str, Any]  # by the key of SIGHTS that uses them


@dataclass(frozen=True)
class Gauge:
    """A metric."""

    sight: str  # key of SIGHTS: what it sees in each clip
    value: Callable[[Tensor, Tensor], Tensor]  # of the sights of real and of corrupted clips, (N, d) each
    rises: bool  # whether worse clips raise it, or lower it
    levels: tuple[Level, ...]  # of clips that it is for
    unasked: dict[str, str]  # corruptions that it need not react to, and why; a key may end in " of LEVEL"

    def why_unasked(self, corruption: str, level: Level) -> str | None:
        """Why it need not react to a corruption, or None if it must."""
        return self.unasked.get(corruption) or self.unasked.get(f"{corruption} of {level}")


def networks() -> Networks:
    """The shipped weights."""
    return {
        "features": ShapesFeatures.from_pretrained(),
        "readings": ShapesReader.from_pretrained(),
        "similarities": SheetSimilarity.from_pretrained(),
    }


@torch.no_grad()
def _features(network: ShapesFeatures, clips: Clips) -> Tensor:
    return torch.cat([network(part) for part in clips.video.split(BATCH)]).double()


def _readings(network: ShapesReader, clips: Clips) -> Tensor:
    """(N, 2): whether all three answers are right, and whether any is "none"."""
    pairs = zip(network.read(clips.video), map(Reading.of, clips.scenes), strict=True)
    return torch.tensor([(reading == right, reading.none) for reading, right in pairs], dtype=torch.float64)


def _similarities(network: SheetSimilarity, clips: Clips) -> Tensor:
    captions = [scene.caption for scene in clips.scenes]
    starts = range(0, len(captions), BATCH)
    parts = [network.similarities(clips.video[i : i + BATCH], captions[i : i + BATCH]) for i in starts]
    return torch.cat(parts)[:, None]


# What is seen in each clip, (N, d).
SIGHTS: dict[str, Callable[[Any, Clips], Tensor]] = {
    "features": _features,
    "readings": _readings,
    "similarities": _similarities,
}
BOTH: tuple[Level, ...] = ("plain", "mixed")
UNSEEN = "faster than it was trained on, it reads less"
SPEED = {"speed": f"none of its answers is the speed; {UNSEEN}"}
SYMMETRIC = {
    "reversal of plain": "plain clips played backward are again plain clips, and as likely: the two sets have one "
    "distribution"
}
NONE = {
    "speed": f"faster plain clips are plain clips; {UNSEEN}",
    "reversal": "a plain clip played backward is a plain clip of another direction",
}

GAUGES = {
    "shapes features, Fréchet distance": Gauge("features", frechet_distance_from_features, True, BOTH, SYMMETRIC),
    "shapes features, kernel distance": Gauge("features", kernel_distance, True, BOTH, SYMMETRIC),
    "reader, joint accuracy": Gauge("readings", lambda real, fake: fake[:, 0].mean(), False, ("plain",), SPEED),
    'reader, share of "none"': Gauge("readings", lambda real, fake: fake[:, 1].mean(), True, ("plain",), NONE),
    # Captions tell the pace: without a word for it they are those of `middle` clips, not of faster ones.
    "shapes CLIP similarity": Gauge("similarities", lambda real, fake: fake.mean(), False, BOTH, {}),
}


def gauges_of(level: Level) -> dict[str, Gauge]:
    """Those of GAUGES that are for clips of this level."""
    return {name: gauge for name, gauge in GAUGES.items() if level in gauge.levels}


def see(clips: Clips, loaded: Networks, sights: set[str]) -> dict[str, Tensor]:
    """What is seen in the clips, (N, d) by the name of the sight."""
    return {name: SIGHTS[name](loaded[name], clips) for name in sights}


Verdict = Literal["monotone", "reacts", "does not react", "reacts the wrong way"]


@dataclass(frozen=True)
class Response:
    """How a metric responds to one corruption of growing strength; changes are positive where it gets worse."""

    values: list[float]  # at each strength
    spreads: list[float]  # standard deviation of each value over resampled clips
    steps: list[float]  # change from each strength to the next
    tolerances: list[float]  # twice the standard deviation of each step, over resamplings alike at all strengths
    overall: tuple[float, float]  # change from the least to the greatest strength, and its tolerance
    rho: float  # Spearman's rank correlation of value with strength

    @property
    def verdict(self) -> Verdict:
        """How it reacts.

        "monotone": every step is the right way and beyond tolerance. "reacts": the greatest strength is clearly worse
        than none, and no step is the wrong way by more than its tolerance and a twentieth of the whole change.
        """
        change, tolerance = self.overall
        if change < -tolerance:
            return "reacts the wrong way"
        pairs = list(zip(self.steps, self.tolerances, strict=True))
        if all(step > limit for step, limit in pairs):
            return "monotone"
        back = any(step < -max(limit, change / 20) for step, limit in pairs)
        return "reacts" if change > tolerance and not back else "does not react"


def respond(gauge: Gauge, real: Tensor, fakes: list[Tensor], resamples: int = RESAMPLES, seed: int = 0) -> Response:
    """Measure a metric on sights of real clips (M, d) and, at each strength, of the same corrupted ones (N, d)."""
    sign = 1 if gauge.rises else -1
    chance = torch.Generator().manual_seed(seed)
    values = torch.stack([gauge.value(real, fake) for fake in fakes])
    drawn = [torch.randint(len(fakes[0]), (len(fakes[0]),), generator=chance) for _ in range(resamples)]
    again = torch.stack([torch.stack([gauge.value(real, fake[rows]) for fake in fakes]) for rows in drawn])
    whole = again[:, -1] - again[:, 0]
    return Response(
        values.tolist(),
        again.std(dim=0).tolist(),
        (sign * values.diff()).tolist(),
        (2 * again.diff(dim=1).std(dim=0)).tolist(),
        (sign * (values[-1] - values[0]).item(), 2 * whole.std().item()),
        spearman(sign * values, torch.arange(len(fakes))),
    )


def spearman(first: Tensor, second: Tensor) -> float:
    """Spearman's rank correlation, with mean ranks for ties; 0 where one side is constant."""

    def ranks(values: Tensor) -> Tensor:
        below = (values[None] < values[:, None]).double().sum(dim=1)
        return below + ((values[None] == values[:, None]).double().sum(dim=1) - 1) / 2

    pair = torch.stack([ranks(first), ranks(second)])
    return 0.0 if (pair.std(dim=1) == 0).any() else torch.corrcoef(pair)[0, 1].item()
