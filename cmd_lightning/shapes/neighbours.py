"""Which known clips are nearest to new ones, and whether the new ones are copies of them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool3d

from cmd_lightning.errors import InputError
from cmd_lightning.metrics.inputs import unit_range

ROWS = 64  # queries that are compared with the whole bank at once

COPY_DISTANCE = 16.0  # grey levels between thumbnails below which a clip may be a copy
COPY_RATIO = 0.5  # share of the distance to the second nearest below which it is one


def nearest_neighbours(query: Tensor, bank: Tensor, k: int = 1) -> tuple[Tensor, Tensor]:
    """The k nearest of a bank `(M, d)` for each query `(N, d)`: Euclidean distances `(N, k)`, and their indices."""
    if query.ndim != 2 or bank.ndim != 2 or query.shape[1] != bank.shape[1]:
        raise InputError(f"features of shapes {tuple(query.shape)}, {tuple(bank.shape)}: give (N, d) and (M, d)")
    if not 1 <= k <= len(bank):
        raise InputError(f"k {k}: give 1 to {len(bank)}, the size of the bank")
    found = []
    for rows in query.split(ROWS):
        # Not by way of the dot products: they lose the digits that tell a copy from a near copy.
        distances = torch.cdist(rows, bank, compute_mode="donot_use_mm_for_euclid_dist")
        found.append(distances.topk(k, dim=1, largest=False))
    return torch.cat([part.values for part in found]), torch.cat([part.indices for part in found])


def thumbnails(video: Tensor) -> Tensor:
    """Clips as coarse as what survives lossy compression and a shift by a pixel: means over blocks of time and space.

    Of clips `(B, C, T, H, W)` it makes `(B, C · T/2 · 8²)`. Euclidean distances between them are root mean squares of
    differences in grey levels from 0 to 255.
    """
    small = adaptive_avg_pool3d(unit_range(video), (max(1, video.shape[2] // 2), 8, 8)).flatten(1)
    return small * 255 / small.shape[1] ** 0.5


@dataclass(frozen=True)
class Copies:
    """For each query, `(N,)`, its nearest in the bank."""

    index: Tensor
    distance: Tensor  # in grey levels
    ratio: Tensor  # of that distance and the one to the second nearest, 0 to 1: near 0 if only this one is alike
    copied: Tensor  # whether distance and ratio are below their limits


def find_copies(query: Tensor, bank: Tensor, distance: float = COPY_DISTANCE, ratio: float = COPY_RATIO) -> Copies:
    """Look for copies of known clips, in pixels: the same clip again, compressed, or shifted by a pixel.

    A copy is near to one known clip and much nearer to it than to the next. Of a clip that the bank holds twice, copies
    show in the distance alone. The limits suit the procedural world: among 300 of its clips they take every copy that
    went through H.264 and nearly every one shifted by a pixel of 32, and fewer than 1 in 100 independent clips, which
    then look alike indeed (the same small shape, on the same way over the same grey).

    Query and bank are `thumbnails`, of the bank at least two, each clip once.
    """
    if len(bank) < 2:
        raise InputError(f"bank of {len(bank)} clips: give at least two")
    distances, indices = nearest_neighbours(query, bank, k=2)
    first, second = distances.unbind(1)
    # Of two exact copies in the bank neither is much nearer.
    ratios = torch.where(second > 0, first / second, torch.ones_like(first))
    return Copies(indices[:, 0], first, ratios, (first < distance) & (ratios < ratio))
