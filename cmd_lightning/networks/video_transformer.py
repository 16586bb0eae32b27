"""The video transformer with attention factorised over time and space (paper App. B.3, after TimeSformer)."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from cmd_lightning.errors import InputError, check_positive
from cmd_lightning.networks.attention import GEGLU, Attention, space_angles, time_angles
from cmd_lightning.networks.unet import zero


class VideoTransformerBlock(nn.Module):
    """Attention over time, attention over space, gated feed-forward; each with a layer norm before and a residual."""

    def __init__(self, width: int, heads: int, head_dim: int, qkv_bias: bool) -> None:
        super().__init__()
        self.norm_time = nn.LayerNorm(width)
        self.time = Attention(width, heads, head_dim, qkv_bias)
        self.norm_space = nn.LayerNorm(width)
        self.space = Attention(width, heads, head_dim, qkv_bias)
        self.norm_feed_forward = nn.LayerNorm(width)
        self.feed_forward = GEGLU(width)

    def forward(self, x: Tensor, time: Tensor | None, space: Tensor | None) -> Tensor:
        """`x` `(B, T, N, width)`, N spatial tokens a frame; `time` and `space` are rotary angles or None."""
        batch, frames, tokens, _ = x.shape
        by_token = self.norm_time(x).transpose(1, 2).flatten(0, 1)
        x = x + self.time(by_token, time).unflatten(0, (batch, tokens)).transpose(1, 2)
        by_frame = self.norm_space(x).flatten(0, 1)
        x = x + self.space(by_frame, space).unflatten(0, (batch, frames))
        return x + self.feed_forward(self.norm_feed_forward(x))


class VideoTransformer(nn.Module):
    """A stack of `VideoTransformerBlock`s on a grid of tokens, any number of frames and any grid.

    Positions are `rotary`, or none: then the network is blind to order.
    """

    def __init__(
        self, width: int, depth: int, heads: int, head_dim: int, rotary: bool = True, qkv_bias: bool = False
    ) -> None:
        super().__init__()
        check_positive(width=width, depth=depth, heads=heads, head_dim=head_dim)
        if rotary and head_dim % 4:
            raise InputError(f"head_dim {head_dim}: rotary positions turn channels in fours; give a multiple of 4")
        self.rotary, self.head_dim = rotary, head_dim
        blocks = [VideoTransformerBlock(width, heads, head_dim, qkv_bias) for _ in range(depth)]
        self.blocks = nn.ModuleList(blocks)
        for block in blocks:  # every branch starts at zero, the stack as the identity
            for branch in (block.time.out, block.space.out, block.feed_forward.down):
                zero(branch)

    def forward(self, x: Tensor, run_block: Callable[..., Tensor]) -> Tensor:
        """`x` `(B, width, T, H, W)` to the same shape; `run_block` is `Network.run_block`."""
        _, _, frames, height, width = x.shape
        time = space = None
        if self.rotary:  # the angles need float32, which autocast leaves alone in what makes them
            time = time_angles(frames, self.head_dim, x.device)
            space = space_angles(height, width, self.head_dim, x.device)
        x = x.flatten(3).permute(0, 2, 3, 1)
        for block in self.blocks:
            x = run_block(block, x, time, space)
        return x.permute(0, 3, 1, 2).unflatten(3, (height, width))
