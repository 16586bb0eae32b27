"""Positions and timesteps as vectors."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from cmd_lightning.errors import InputError
from cmd_lightning.networks.latents import Condition


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

    def forward(self, timestep: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """`dtype` is what the network computes in; that of the weights, unless these are stored in another one."""
        return self.mlp(sinusoid(timestep, self.frequencies).to(dtype or next(self.parameters()).dtype))


def embedded(
    timestep_layer: nn.Module,
    condition_layer: nn.Module | None,
    timestep: Tensor,
    condition: Condition | None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Timestep `(B,)` and pooled condition `(B, K)` as one vector `(B, width)`, the sum of what their layers return.

    Args:
        timestep_layer: Usually a `TimestepEmbedding`.
        condition_layer: From the pooled condition; None for an unconditional network.
        timestep: The timesteps.
        condition: The condition; an unconditional network ignores it.
        dtype: What the network computes in; a `TimestepEmbedding` gets it after the timestep.

    Raises:
        InputError: The network was built for a condition, but got None.
    """
    signal = timestep_layer(timestep) if dtype is None else timestep_layer(timestep, dtype)
    if condition_layer is None:
        return signal
    if condition is None:
        raise InputError("condition None: this network was built for one; give it, or the null condition")
    return signal + condition_layer(condition.pooled.to(signal.dtype))
