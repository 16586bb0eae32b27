"""A motion model that reads the content frame once for all steps."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cmd_lightning.networks import Condition, LatentSpec, MotionModel
from cmd_lightning.networks.attention import Attention, AttentionLayer
from cmd_lightning.networks.dit import DiT, pad_to_multiple, unpatchify
from cmd_lightning.networks.slots import slot_embedding


class CachedDiT(DiT, MotionModel):
    """Diffusion transformer over motion tokens that attend to cached keys and values of the content; not in the paper.

    In the paper's model the patches of the content frame go through all blocks with the motion tokens, again in every
    step. Here they go through separate blocks, which see neither timestep nor motion, and give keys and values for all
    blocks of the motion tokens, once per sampling: a step only computes the motion tokens. Any layout of slots.
    Other arguments: as for `DiT`.

    Args:
        depth: Number of blocks of the motion tokens.
        frames: Frames in a motion token.
        content_patch_size: Side of a square patch of the content frame.
        content_depth: Number of blocks of the content tokens.
    """

    _repeated_blocks = ["DiTBlock", "ContentBlock"]  # noqa: RUF012 (diffusers' own spelling)

    def __init__(
        self,
        latent_spec: LatentSpec,
        condition_dim: int,
        width: int = 1152,
        depth: int = 28,
        heads: int = 16,
        frames: int = 2,
        content_patch_size: int = 4,
        content_depth: int = 4,
        mlp_ratio: float = 4.0,
    ) -> None:
        def mixing(block: int) -> CachedAttention:
            return CachedAttention(width, heads, width // heads, qkv_bias=True)

        channels = latent_spec.motion[0]
        super().__init__(condition_dim, channels * frames, width, depth, heads, mlp_ratio, mixing)
        self.heads, self.frames, self.content_patch_size = heads, frames, content_patch_size
        self.stem = nn.Conv2d(channels, width, (frames, 1), stride=(frames, 1))
        self.register_buffer("slots", slot_embedding(latent_spec, width))
        self.place = nn.Linear(width, width)
        self.content_stem = nn.Conv2d(latent_spec.content[0], width, content_patch_size, stride=content_patch_size)
        self.content_blocks = nn.ModuleList(ContentBlock(width, heads, mlp_ratio) for _ in range(content_depth))
        self.content_norm = nn.LayerNorm(width)
        self.keys_values = nn.Linear(width, depth * 2 * width)

    def prepare(self, content: Tensor) -> Tensor:
        """Keys and values of the content frame's N patches for each block, `(depth, 2, B, heads, N, head_dim)`."""
        patches = self.content_stem(pad_to_multiple(content, self.content_patch_size, self.content_patch_size))
        x = patches.flatten(2).mT + self.positions(patches, *patches.shape[2:])
        for block in self.content_blocks:
            x = self.run_block(block, x)
        keys_values = self.keys_values(self.content_norm(x))
        return keys_values.unflatten(2, (len(self.blocks), 2, self.heads, -1)).permute(2, 3, 0, 4, 1, 5)

    def forward(self, motion: Tensor, timestep: Tensor, context: Tensor, condition: Condition | None) -> Tensor:
        frames = motion.shape[2]
        tokens = self.stem(pad_to_multiple(motion, self.frames, 1)).permute(0, 2, 3, 1)  # (B, T / frames, S, width)
        rows = tokens.shape[1]
        x = tokens + self.place(self.slots) + self.positions(tokens, rows)[:, None]
        x = self.transform(x.flatten(1, 2), timestep, condition, context=context)
        return unpatchify(x, (self.frames, 1), rows)[:, :, :frames]


class CachedAttention(AttentionLayer):
    """Attention to each other and to given keys and values, in one softmax."""

    def forward(self, x: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """`x` `(B, N, width)`; `keys` and `values` `(B, heads, M, head_dim)`."""
        q, k, v = self.project(x)
        return self.attend(q, torch.cat([k, keys], dim=2), torch.cat([v, values], dim=2))


class ContentBlock(nn.Module):
    """Transformer block that sees the tokens alone."""

    def __init__(self, width: int, heads: int, mlp_ratio: float) -> None:
        super().__init__()
        hidden = int(width * mlp_ratio)
        self.attention = nn.Sequential(nn.LayerNorm(width), Attention(width, heads, width // heads, qkv_bias=True))
        self.mlp = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, hidden), nn.GELU(approximate="tanh"), nn.Linear(hidden, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        """`x` `(B, N, width)`."""
        x = x + self.attention(x)
        return x + self.mlp(x)
