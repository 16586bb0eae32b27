"""Positions and timesteps as vectors."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def sinusoid_angles(position: Tensor, number: int) -> Tensor:
    """`position` times frequencies from 1 to 1 / 10 000 (wavelengths 2π to 20 000 π), `(*position.shape, number)`."""
    steps = torch.arange(number, device=position.device, dtype=torch.float32)
    return position.float()[..., None] * torch.exp(-math.log(10_000.0) * steps / number)


def sinusoid(position: Tensor, dim: int) -> Tensor:
    """Cosines, then sines, of the `sinusoid_angles` of `position`: `(*position.shape, dim)`, `dim` even."""
    angle = sinusoid_angles(position, dim // 2)
    return torch.cat([angle.cos(), angle.sin()], dim=-1)


def coordinates_embedding(coordinates: Tensor, dim: int) -> Tensor:
    """Fixed sinusoidal encoding `(N, dim)` of N points, `(N, A)`, in units in which neighbours are about 1 apart.

    Each coordinate gets an equal share of the channels; what A does not divide stays zero.
    """
    share = dim // coordinates.shape[1] // 2 * 2
    embedding = sinusoid(coordinates, share).flatten(1)
    return nn.functional.pad(embedding, (0, dim - embedding.shape[1]))


def grid_coordinates(*sizes: int, device: torch.device | None = None) -> Tensor:
    """The points of a grid in row-major order: `(prod(sizes), len(sizes))`, integers as floats."""
    return torch.cartesian_prod(*(torch.arange(n, device=device).float() for n in sizes)).view(-1, len(sizes))


class TimestepEmbedding(nn.Module):
    """Diffusion timestep `(B,)`, 0 to 1000, to `(B, width)`: sinusoid, then a two-layer perceptron."""

    def __init__(self, width: int, frequencies: int = 256) -> None:
        super().__init__()
        self.frequencies = frequencies
        self.mlp = nn.Sequential(nn.Linear(frequencies, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, timestep: Tensor) -> Tensor:
        return self.mlp(sinusoid(timestep, self.frequencies).to(next(self.parameters()).dtype))
