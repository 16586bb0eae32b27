"""CMD's motion model: a diffusion transformer with the content frame as extra tokens."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cmd_lightning.networks import Condition, LatentSpec, MotionModel
from cmd_lightning.networks.attention import Attention
from cmd_lightning.networks.embeddings import TimestepEmbedding, coordinates_embedding, grid_coordinates


class DiTBlock(nn.Module):
    """Transformer block whose norms are shifted, scaled and gated by timestep and condition (adaLN-Zero)."""

    def __init__(self, width: int, heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.norm_attention = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.attention = Attention(width, heads, width // heads, qkv_bias=True)
        self.norm_mlp = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        hidden = int(width * mlp_ratio)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(approximate="tanh"), nn.Linear(hidden, width))
        self.modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))
        nn.init.zeros_(self.modulation[1].weight)
        nn.init.zeros_(self.modulation[1].bias)

    def forward(self, x: Tensor, signal: Tensor) -> Tensor:
        """`x` `(B, N, width)`, `signal` `(B, width)`."""
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(signal)[:, None].chunk(6, dim=-1)
        x = x + gate1 * self.attention(self.norm_attention(x) * (1 + scale1) + shift1)
        return x + gate2 * self.mlp(self.norm_mlp(x) * (1 + scale2) + shift2)


class MotionDiT(MotionModel):
    """Diffusion transformer over the motion latent (paper section 3.2, table 6).

    The latent is read as a picture of T × S points in D channels and cut into patches; the content frame, cut into
    patches of its own, is appended to the sequence, and only the motion tokens are read out. Timestep and pooled
    condition enter through adaLN. Width 1024, depth 24, 16 heads is DiT-L; 1152, 28, 16 is DiT-XL.

    Args:
        latent_spec: Shapes of content frame and motion latent.
        condition_dim: Channels K of the pooled condition; 0 for an unconditional model.
        width: Channels of the tokens.
        depth: Number of blocks.
        heads: Attention heads; must divide `width`.
        patch_size: Side of a square patch of the motion latent, in frames and in slots.
        content_patch_size: Side of a square patch of the content frame ("key" in table 6); smaller is better and
            slower (table 4c).
        mlp_ratio: Hidden channels of the perceptrons over `width`.
    """

    _supports_gradient_checkpointing = True

    def __init__(
        self,
        latent_spec: LatentSpec,
        condition_dim: int,
        width: int = 1152,
        depth: int = 28,
        heads: int = 16,
        patch_size: int = 2,
        content_patch_size: int = 4,
        mlp_ratio: float = 4.0,
    ) -> None:
        super().__init__()
        channels = latent_spec.motion[0]
        self.width, self.patch_size, self.content_patch_size = width, patch_size, content_patch_size
        self.motion_stem = nn.Conv2d(channels, width, patch_size, stride=patch_size)
        self.content_stem = nn.Conv2d(latent_spec.content[0], width, content_patch_size, stride=content_patch_size)
        self.timestep = TimestepEmbedding(width)
        self.condition = nn.Linear(condition_dim, width) if condition_dim else None
        self.blocks = nn.ModuleList(DiTBlock(width, heads, mlp_ratio) for _ in range(depth))
        self.norm = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))
        self.head = nn.Linear(width, channels * patch_size**2)
        self.initialize()

    def initialize(self) -> None:
        """Xavier for the linear layers; the output starts at zero."""
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear) and "modulation" not in name:
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for module in (self.modulation[1], self.head):
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)

    def positions(self, *sizes: int) -> Tensor:
        """Fixed positions of the tokens of a grid, `(N, width)`."""
        return coordinates_embedding(grid_coordinates(*sizes, device=self.device), self.width).to(self.dtype)

    def forward(self, motion: Tensor, timestep: Tensor, content: Tensor, condition: Condition | None) -> Tensor:
        _, channels, frames, slots = motion.shape
        patch = self.patch_size
        tokens = self.motion_stem(pad_to_multiple(motion, patch))  # (B, width, T / patch, S / patch)
        rows, columns = tokens.shape[2:]
        tokens = tokens.flatten(2).mT + self.positions(rows, columns)
        keys = self.content_stem(pad_to_multiple(content, self.content_patch_size))
        keys = keys.flatten(2).mT + self.positions(*keys.shape[2:])

        signal = self.timestep(timestep)
        if self.condition is not None:
            signal = signal + self.condition(condition.pooled.to(signal.dtype))
        x = torch.cat([tokens, keys], dim=1)
        for block in self.blocks:
            x = self.run_block(block, x, signal)

        shift, scale = self.modulation(signal)[:, None].chunk(2, dim=-1)
        x = self.head(self.norm(x[:, : rows * columns]) * (1 + scale) + shift)
        x = x.unflatten(2, (channels, patch, patch)).unflatten(1, (rows, columns))  # (B, T', S', D, p, p)
        x = x.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)
        return x[:, :, :frames, :slots]


def pad_to_multiple(x: Tensor, multiple: int) -> Tensor:
    """Repeats the last rows and columns of `(B, C, H, W)` until both sides are multiples of `multiple`."""
    height, width = x.shape[2:]
    if height % multiple == 0 and width % multiple == 0:
        return x
    return F.pad(x, (0, -width % multiple, 0, -height % multiple), mode="replicate")
