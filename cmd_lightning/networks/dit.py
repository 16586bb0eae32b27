"""The diffusion transformer that content and motion models share: blocks, the way out, patches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import repeat

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cmd_lightning.networks.attention import Attention
from cmd_lightning.networks.embeddings import TimestepEmbedding, coordinates_embedding, embedded, grid_coordinates
from cmd_lightning.networks.latents import Condition
from cmd_lightning.networks.network import Network
from cmd_lightning.networks.unet import zero


class DiTBlock(nn.Module):
    """Transformer block whose norms are shifted, scaled and gated by timestep and condition (adaLN-Zero).

    Args:
        width: Channels of the tokens.
        heads: Attention heads; must divide `width`.
        mlp_ratio: Hidden channels of the perceptron over `width`.
        mixing: What mixes the tokens `(B, N, width)`; attention of each to all by default.
    """

    def __init__(self, width: int, heads: int, mlp_ratio: float, mixing: nn.Module | None = None) -> None:
        super().__init__()
        self.norm_attention = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.attention = mixing or Attention(width, heads, width // heads, qkv_bias=True)
        self.norm_mlp = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        hidden = int(width * mlp_ratio)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(approximate="tanh"), nn.Linear(hidden, width))
        self.modulation = nn.Sequential(nn.SiLU(), zero(nn.Linear(width, 6 * width)))

    def forward(self, x: Tensor, signal: Tensor, *context: Tensor) -> Tensor:
        """`x` `(B, N, width)`, `signal` `(B, width)`; `context` is what the mixing takes besides the tokens."""
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(signal)[:, None].chunk(6, dim=-1)
        x = x + gate1 * self.attention(self.norm_attention(x) * (1 + scale1) + shift1, *context)
        return x + gate2 * self.mlp(self.norm_mlp(x) * (1 + scale2) + shift2)


class DiT(Network):
    """The body of a diffusion transformer: timestep and pooled condition enter through adaLN; its output starts at 0.

    Args:
        condition_dim: Channels K of the pooled condition; 0 for an unconditional model.
        outputs: Channels that come out of a token.
        width: Channels of the tokens.
        depth: Number of blocks.
        heads: Attention heads; must divide `width`.
        mlp_ratio: Hidden channels of the perceptrons over `width`.
        mixing: Makes what mixes the tokens in a block, from its number; attention of each to all by default.
        long_skips: Whether the blocks of the second half also see the tokens of the first half, last in first out
            (U-ViT, arXiv 2209.12152); initialised to have no effect.
    """

    _supports_gradient_checkpointing = True
    _repeated_blocks = ["DiTBlock"]  # noqa: RUF012 (diffusers' own spelling)

    def __init__(
        self,
        condition_dim: int,
        outputs: int,
        width: int,
        depth: int,
        heads: int,
        mlp_ratio: float,
        mixing: Callable[[int], nn.Module | None] = lambda block: None,
        long_skips: bool = False,
    ) -> None:
        super().__init__()
        self.width = width
        self.timestep = TimestepEmbedding(width)
        self.condition = nn.Linear(condition_dim, width) if condition_dim else None
        self.blocks = nn.ModuleList(DiTBlock(width, heads, mlp_ratio, mixing(i)) for i in range(depth))
        self.skips = nn.ModuleList(nn.Linear(2 * width, width) for _ in range(depth // 2 * long_skips))
        self.norm = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.modulation = nn.Sequential(nn.SiLU(), zero(nn.Linear(width, 2 * width)))
        self.head = nn.Linear(width, outputs)
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear) and "modulation" not in name:
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        zero(self.head)
        for skip in self.skips:
            assert isinstance(skip, nn.Linear)
            nn.init.eye_(skip.weight)  # of its left half: the tokens stay as they are

    def positions(self, tokens: Tensor, *sizes: int) -> Tensor:
        """Fixed positions `(N, width)` of the tokens of a grid, in the precision of `tokens`, to which they are added.

        Under autocast that of the weights: tokens that come out of a layer have half of it.
        """
        device = tokens.device.type
        autocast = device != "meta" and torch.is_autocast_enabled(device)  # counting allocates nothing
        dtype = self.head.weight.dtype if autocast else tokens.dtype
        return coordinates_embedding(grid_coordinates(*sizes, device=tokens.device), self.width).to(dtype)

    def transform(
        self,
        x: Tensor,
        timestep: Tensor,
        condition: Condition | None,
        read: int | None = None,
        context: Iterable[Sequence[Tensor]] | None = None,
    ) -> Tensor:
        """Tokens `(B, N, width)` to outputs `(B, N, outputs)`, of the first `read` tokens alone if that is given.

        `context` has for each block what its mixing takes besides the tokens.
        """
        signal = embedded(self.timestep, self.condition, timestep, condition, x.dtype)
        kept: list[Tensor] = []
        first, skips = len(self.blocks) - len(self.skips), iter(self.skips)
        for i, (block, more) in enumerate(zip(self.blocks, repeat(()) if context is None else context, strict=False)):
            if i >= first:
                x = next(skips)(torch.cat([x, kept.pop()], dim=2))
            x = self.run_block(block, x, signal, *more)
            if i < len(self.skips):
                kept.append(x)
        shift, scale = self.modulation(signal)[:, None].chunk(2, dim=-1)
        return self.head(self.norm(x[:, :read]) * (1 + scale) + shift)


def pad_to_multiple(x: Tensor, rows: int, columns: int) -> Tensor:
    """Repeats the last rows and columns of `(B, C, H, W)` until `rows` divides H and `columns` divides W."""
    height, width = x.shape[2:]
    if height % rows == 0 and width % columns == 0:
        return x
    return F.pad(x, (0, -width % columns, 0, -height % rows), mode="replicate")


def unpatchify(x: Tensor, patch: tuple[int, int], rows: int) -> Tensor:
    """Patches `(B, rows * columns, C * p * q)` of p × q points to images `(B, C, rows * p, columns * q)`."""
    x = x.unflatten(2, (-1, *patch)).unflatten(1, (rows, -1))  # (B, rows, columns, C, p, q)
    return x.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)
