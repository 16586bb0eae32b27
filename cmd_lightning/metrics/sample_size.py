"""How a distance depends on the number of samples, and how far it would scatter."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from cmd_lightning.errors import InputError

Distance = Callable[[Tensor, Tensor], Tensor]


def distance_curve(x: Tensor, y: Tensor, distance: Distance, seed: int = 0) -> dict[int, float]:
    """The distance at a quarter, at half and at all of the samples, by their number in the second set.

    Both sets, `(N, d)` and `(M, d)`, are shuffled and cut into four, two and one parts; the value is the mean over the
    parts, so all samples count at each size.
    """
    if min(len(x), len(y)) < 8:
        raise InputError(f"features of {len(x)} and {len(y)} samples: a curve needs at least eight of each")
    generator = torch.Generator().manual_seed(seed)
    x, y = (z[torch.randperm(len(z), generator=generator).to(z.device)] for z in (x, y))
    curve = {}
    for parts in (4, 2, 1):
        pieces = ([z[i * (len(z) // parts) : (i + 1) * (len(z) // parts)] for i in range(parts)] for z in (x, y))
        values = [float(distance(a, b)) for a, b in zip(*pieces, strict=True)]
        curve[len(y) // parts] = sum(values) / parts
    return curve


def extrapolated(curve: Mapping[int, float]) -> float:
    """Where the least-squares line of a distance over 1/N reaches infinitely many samples (as FID∞, arXiv 1911.07023).

    The 1/N law holds for N above the number of features; with fewer the value can even be negative.
    """
    inverse = torch.tensor([1 / number for number in curve], dtype=torch.float64)
    values = torch.tensor(list(curve.values()), dtype=torch.float64)
    line = torch.linalg.lstsq(torch.stack([torch.ones_like(inverse), inverse], 1), values[:, None]).solution
    return line[0].item()


def bootstrap_interval(
    x: Tensor, y: Tensor, distance: Distance, resamples: int = 100, confidence: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """Interval of the distance over resampled sets of the same sizes, centred on the distance itself.

    Drawing with repeats makes sets poorer and so their distance larger; the resampled distances are therefore moved so
    that their mean is the distance of the sets themselves. What remains is the scatter by the choice of samples, not
    the bias of their number.
    """
    if resamples < 2 or not 0 < confidence < 1:
        raise InputError(f"resamples {resamples}, confidence {confidence}: give at least 2, and between 0 and 1")
    generator = torch.Generator().manual_seed(seed)
    values = torch.stack(
        [
            distance(*(z[torch.randint(len(z), (len(z),), generator=generator).to(z.device)] for z in (x, y)))
            for _ in range(resamples)
        ]
    )
    edges = torch.tensor([(1 - confidence) / 2, (1 + confidence) / 2], dtype=values.dtype, device=values.device)
    low, high = (values.quantile(edges) - values.mean() + distance(x, y)).tolist()
    return low, high
