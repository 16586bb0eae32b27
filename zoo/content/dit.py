"""A diffusion transformer for content frames, as the paper trains from scratch where no image model is at hand."""

from __future__ import annotations

from torch import Tensor, nn

from cmd_lightning.networks import Condition, ContentModel, LatentSpec
from cmd_lightning.networks.dit import DiT, pad_to_multiple, unpatchify


class ContentDiT(DiT, ContentModel):
    """Diffusion transformer over patches of the content frame (paper App. B.3: the content model of UCF-101).

    Timestep and pooled condition enter through adaLN. Width 1152, depth 28, 16 heads is DiT-XL; 1024, 24, 16 is DiT-L.

    Args:
        latent_spec: Shapes of content frame and motion latent.
        condition_dim: Channels K of the pooled condition; 0 for an unconditional model.
        width: Channels of the tokens.
        depth: Number of blocks.
        heads: Attention heads; must divide `width`.
        patch_size: Side of a square patch.
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
        mlp_ratio: float = 4.0,
    ) -> None:
        channels = latent_spec.content[0]
        super().__init__(condition_dim, channels * patch_size**2, width, depth, heads, mlp_ratio)
        self.patch_size = patch_size
        self.stem = nn.Conv2d(channels, width, patch_size, stride=patch_size)

    def forward(self, content: Tensor, timestep: Tensor, condition: Condition | None) -> Tensor:
        height, width = content.shape[2:]
        patch = self.patch_size
        tokens = self.stem(pad_to_multiple(content, patch, patch))  # (B, width, H / patch, W / patch)
        rows, columns = tokens.shape[2:]
        x = tokens.flatten(2).mT + self.positions(tokens, rows, columns)
        x = self.transform(x, timestep, condition)
        return unpatchify(x, (patch, patch), rows)[:, :, :height, :width]
