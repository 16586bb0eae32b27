"""Mixing blocks of a U-Net: attention over the points of its images and condition tokens, and mixing of frames."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cmd_lightning.networks.attention import Attention
from cmd_lightning.networks.unet import group_norm, zero


class PointAttention(nn.Module):
    """Self-attention over the points of all maps together, with a residual; starts as the identity.

    Args:
        width: Channels of the maps.
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

    def forward(self, maps: list[Tensor], *tokens: Tensor | None) -> list[Tensor]:
        """Feature maps `(B, width, H, W)` of any sizes to the same shapes; `tokens` as for `TokenAttention`."""
        points = [self.norm(x).flatten(2).mT for x in maps]
        mixed = self.attention(torch.cat(points, dim=1), *tokens).split([part.shape[1] for part in points], dim=1)
        return [x + self.head(part.mT.unflatten(2, x.shape[2:])) for x, part in zip(maps, mixed, strict=True)]


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


class FrameMixing(nn.Module):
    """A perceptron over all frames and channels of a point, with a residual; starts as the identity.

    After MLP-Mixer (arXiv 2105.01601), but with the channels: clips of one length have trajectories that depend on all
    of them at once, which attention over time learns more slowly.

    Args:
        width: Channels of the images.
        frames: Images of a clip.
    """

    def __init__(self, width: int, frames: int) -> None:
        super().__init__()
        self.frames = frames
        self.norm = group_norm(width)
        self.hidden = nn.Conv2d(width * frames, width * frames, 1)
        self.head = zero(nn.Conv2d(width * frames, width * frames, 1))

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Feature maps `(B * frames, width, H, W)` of any sizes to the same shapes."""
        return [x + self.head(F.silu(self.hidden(self.stacked(x)))).reshape(x.shape) for x in maps]

    def stacked(self, x: Tensor) -> Tensor:
        """The norm of `(B * frames, width, H, W)` as `(B, frames * width, H, W)`."""
        series = self.norm(x).unflatten(0, (-1, self.frames)).flatten(1, 2)
        return series.contiguous(memory_format=torch.channels_last)


class SpaceTimeMixing(nn.Module):
    """Attention over the points of an image, where asked for, then a perceptron over the frames of each point.

    Args:
        width: Channels of the images.
        frames: Images of a clip.
        heads: Attention heads; must divide `width`. 0 for no attention.
    """

    def __init__(self, width: int, frames: int, heads: int) -> None:
        super().__init__()
        self.space = PointAttention(width, heads) if heads else None
        self.time = FrameMixing(width, frames)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Feature maps `(B * frames, width, H, W)` of any sizes to the same shapes."""
        return self.time(maps if self.space is None else self.space(maps))
