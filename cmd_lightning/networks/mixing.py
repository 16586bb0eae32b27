"""Mixing blocks of a U-Net: attention over the points of its pictures, over condition tokens, and over frames."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cmd_lightning.networks.attention import Attention, time_angles
from cmd_lightning.networks.unet import group_norm, zero


class PointAttention(nn.Module):
    """Self-attention over the points of all pictures together, with a residual; starts as the identity.

    Args:
        width: Channels of the pictures.
        heads: Attention heads; must divide `width`.
        token_dim: Channels of condition tokens that the points attend to as well; 0 for none.
    """

    def __init__(self, width: int, heads: int, token_dim: int = 0) -> None:
        super().__init__()
        self.norm = group_norm(width)
        self.attention = (
            TokenAttention(width, heads, token_dim) if token_dim else Attention(width, heads, width // heads)
        )
        self.head = zero(nn.Conv2d(width, width, 1))

    def forward(self, pictures: list[Tensor], *tokens: Tensor | None) -> list[Tensor]:
        """Pictures `(B, width, H, W)` of any sizes to the same shapes; `tokens` as for `TokenAttention`."""
        points = [self.norm(x).flatten(2).mT for x in pictures]
        mixed = self.attention(torch.cat(points, dim=1), *tokens).split([part.shape[1] for part in points], dim=1)
        return [x + self.head(part.mT.unflatten(2, x.shape[2:])) for x, part in zip(pictures, mixed, strict=True)]


class TokenAttention(Attention):
    """Attention to each other and to condition tokens, in one softmax.

    Args:
        width: Channels of the points.
        heads: Attention heads; must divide `width`.
        token_dim: Channels K of the condition tokens.
    """

    def __init__(self, width: int, heads: int, token_dim: int) -> None:
        super().__init__(width, heads, width // heads)
        self.keys_values = nn.Linear(token_dim, 2 * width)

    def forward(self, x: Tensor, tokens: Tensor, mask: Tensor | None = None) -> Tensor:  # type: ignore[override]  # it takes tokens too
        """`x` `(B, N, width)`, `tokens` `(B, L, K)`, `mask` `(B, L)`, True for real tokens, or None where all are."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        more = self.keys_values(tokens).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        if mask is not None:
            mask = F.pad(mask, (x.shape[1], 0), value=True)[:, None, None]
        k, v = torch.cat([k, more[0]], dim=2), torch.cat([v, more[1]], dim=2)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.out(out.transpose(1, 2).flatten(2))


class FrameAttention(nn.Module):
    """Attention over time at each point, with rotary positions and a residual; starts as the identity.

    Args:
        width: Channels of the pictures.
        heads: Attention heads; must divide `width`.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm = group_norm(width)
        self.attention = Attention(width, heads, width // heads)
        self.head = zero(nn.Conv2d(width, width, 1))

    def forward(self, pictures: list[Tensor], frames: int) -> list[Tensor]:
        """Pictures `(B * frames, width, H, W)` of any sizes to the same shapes."""
        angles = time_angles(frames, pictures[0].shape[1] // self.attention.heads, pictures[0].device)
        points = [self.norm(x).flatten(2).unflatten(0, (-1, frames)) for x in pictures]  # (B, T, width, N)
        series = torch.cat(points, dim=3).permute(0, 3, 1, 2)  # (B, N, T, width)
        mixed = self.attention(series.flatten(0, 1), angles).unflatten(0, series.shape[:2]).permute(0, 2, 3, 1)
        parts = mixed.flatten(0, 1).split([x.shape[2] * x.shape[3] for x in pictures], dim=2)
        return [x + self.head(part.unflatten(2, x.shape[2:])) for x, part in zip(pictures, parts, strict=True)]


class SpaceTimeAttention(nn.Module):
    """Attention over the points of a frame, then over time at each point; starts as the identity.

    Args:
        width: Channels of the pictures.
        heads: Attention heads; must divide `width`.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.space = PointAttention(width, heads)
        self.time = FrameAttention(width, heads)

    def forward(self, pictures: list[Tensor], frames: int) -> list[Tensor]:
        """Pictures `(B * frames, width, H, W)` of any sizes to the same shapes."""
        return self.time(self.space(pictures), frames)
