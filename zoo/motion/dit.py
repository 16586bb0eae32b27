"""CMD's motion model: a diffusion transformer with the content frame as extra tokens."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cmd_lightning.networks import Condition, LatentSpec, MotionModel
from cmd_lightning.networks.dit import DiT, pad_to_multiple, unpatchify


class MotionDiT(DiT, MotionModel):
    """Diffusion transformer over the motion latent (paper section 3.2, table 6).

    The latent is read as an image of T × S points in D channels and cut into patches; the content frame, also cut into
    patches, is appended to the sequence, and only the motion tokens are read out. Timestep and pooled
    condition enter through adaLN. Width 1024, depth 24, 16 heads is DiT-L; 1152, 28, 16 is DiT-XL.

    Args:
        width: Channels of the tokens.
        depth: Number of blocks.
        heads: Attention heads; must divide `width`.
        patch_size: Side of a square patch of the motion latent, in frames and in slots.
        content_patch_size: Side of a square patch of the content frame ("key" in table 6); smaller is better and
            slower (table 4c).
        mlp_ratio: Hidden channels of the perceptrons over `width`.
    """

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
        channels = latent_spec.motion[0]
        super().__init__(condition_dim, channels * patch_size**2, width, depth, heads, mlp_ratio)
        self.patch_size, self.content_patch_size = patch_size, content_patch_size
        self.motion_stem = nn.Conv2d(channels, width, patch_size, stride=patch_size)
        self.content_stem = nn.Conv2d(latent_spec.content[0], width, content_patch_size, stride=content_patch_size)

    def forward(self, motion: Tensor, timestep: Tensor, context: Tensor, condition: Condition | None) -> Tensor:
        frames, slots = motion.shape[2:]
        patch, key = self.patch_size, self.content_patch_size
        tokens = self.motion_stem(pad_to_multiple(motion, patch, patch))  # (B, width, T / patch, S / patch)
        rows, columns = tokens.shape[2:]
        keys = self.content_stem(pad_to_multiple(context, key, key))
        parts = [part.flatten(2).mT + self.positions(part, *part.shape[2:]) for part in (tokens, keys)]
        x = self.transform(torch.cat(parts, dim=1), timestep, condition, read=rows * columns)
        return unpatchify(x, (patch, patch), rows)[:, :, :frames, :slots]
