"""Attention, rotary positions and the gated feed-forward layer: the blocks of the video transformer."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cmd_lightning.networks.embeddings import sinusoid_angles


class AttentionLayer(nn.Module):
    """The projections of multi-head attention; a subclass says in `forward` what attends to what.

    Args:
    width: Channels of the tokens.
    heads: Number of heads.
    head_dim: Channels per head; `heads * head_dim` may differ from `width`.
    qkv_bias: Whether the query, key and value projections have a bias.
    """

    def __init__(self, width: int, heads: int, head_dim: int, qkv_bias: bool = False) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * heads * head_dim, bias=qkv_bias)
        self.out = nn.Linear(heads * head_dim, width)

    def project(self, x: Tensor) -> Tensor:
        """Tokens `(B, N, width)` to queries, keys and values `(3, B, heads, N, head_dim)`."""
        return self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Queries `(B, heads, N, head_dim)`, keys and values `(B, heads, M, head_dim)` to tokens `(B, N, width)`."""
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Attention(AttentionLayer):
    """Multi-head self-attention over the second-to-last axis, with optional rotary positions.

    Args:
        width: Channels of the tokens.
        heads: Number of heads.
        head_dim: Channels per head; `heads * head_dim` may differ from `width`.
        qkv_bias: Whether the query, key and value projections have a bias.
    """

    def forward(self, x: Tensor, angles: Tensor | None = None) -> Tensor:
        """`x` `(B, N, width)`; `angles` `(N, A)`, `A <= head_dim / 2`, from `time_angles`, `space_angles`, or None."""
        qkv = self.project(x)
        v = qkv[2]
        q, k = (qkv[:2] if angles is None else rotate(qkv[:2], angles)).to(v.dtype)
        return self.attend(q, k, v)


class GEGLU(nn.Module):
    """Feed-forward layer with a GELU gate: width to 2 × `expansion` × width, gated, and back."""

    def __init__(self, width: int, expansion: int = 4) -> None:
        super().__init__()
        self.up = nn.Linear(width, 2 * expansion * width)
        self.down = nn.Linear(expansion * width, width)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.up(x).chunk(2, dim=-1)
        return self.down(value * F.gelu(gate))


def rotate(x: Tensor, angles: Tensor) -> Tensor:
    """Turns the first `2 * A` channels of `x` `(..., N, head_dim)` pairwise by `angles` `(N, A)`, in float32.

    As a product of complex numbers: one pass over memory, where sines and cosines on real pairs take eight. Not when it
    is compiled: inductor makes one kernel of the reals with all that is around them, and none of complex numbers.
    """
    turned, kept = x.float().split([2 * angles.shape[-1], x.shape[-1] - 2 * angles.shape[-1]], dim=-1)
    pairs = turned.unflatten(-1, (-1, 2))
    if torch.compiler.is_compiling():
        sine = angles.sin()
        pairs = pairs * angles.cos()[..., None] + pairs.flip(-1) * torch.stack([-sine, sine], dim=-1)
    else:
        turn = torch.polar(torch.ones_like(angles), angles)
        pairs = torch.view_as_real(torch.view_as_complex(pairs) * turn)
    turned = pairs.flatten(-2)
    return torch.cat([turned, kept], dim=-1) if kept.shape[-1] else turned


def time_angles(frames: int, head_dim: int, device: torch.device | None = None) -> Tensor:
    """Rotary angles of `frames` positions, `(frames, head_dim / 2)`."""
    return sinusoid_angles(torch.arange(frames, device=device), head_dim // 2)


def space_angles(height: int, width: int, head_dim: int, device: torch.device | None = None) -> Tensor:
    """Axial rotary angles of a grid, `(height * width, 2 * (head_dim // 4))`.

    Positions run from -1 to 1 along each side and the frequencies from π to 5π (PVDM's choice: "maximum frequency
    10"), so that an angle means the same share of the image at every resolution.
    """
    frequency = torch.linspace(1.0, 5.0, head_dim // 4, device=device, dtype=torch.float32) * math.pi
    rows = torch.linspace(-1, 1, height, device=device, dtype=torch.float32)[:, None, None] * frequency
    columns = torch.linspace(-1, 1, width, device=device, dtype=torch.float32)[None, :, None] * frequency
    return torch.cat([rows.expand(-1, width, -1), columns.expand(height, -1, -1)], dim=-1).flatten(0, 1)
