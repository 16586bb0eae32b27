"""CMD's autoencoder with a small grid in each frame for its motion latent, in place of rows and columns."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch.nn.functional as F
from torch import Tensor

from cmd_lightning.errors import InputError
from cmd_lightning.zoo.autoencoders.cmd import CMDAutoencoder, Weights


class GridAutoencoder(CMDAutoencoder):
    """The content frame of CMD with the motion latent of a frame on a coarse grid; not in the paper.

    The features of a frame are averaged over the cells of a grid of h × w, and each cell is handed back to all of its
    patches: h · w slots of kind 2, row-major. Of what moves in one row and one column, averages over these do not tell
    which belongs to which (two points on a diagonal have the averages of two on the other); cells do, and tell less
    exactly where in them something is. A grid may have as many slots as rows and columns together: 8 × 8 for 32 + 32.

    Args:
        channels: Channels C of the video, 3 for pixels, 4 for Stable Diffusion's latents.
        patch_size: Side of a square patch; height and width of the video must be multiples of it.
        width: Channels C' of the transformers.
        motion_channels: Channels D of a motion slot.
        depth: Blocks of the encoder, and of the decoder.
        heads: Attention heads.
        head_dim: Channels a head.
        rotary: Whether the transformers know positions.
        qkv_bias: Whether the attention projections have a bias.
        weights: How frames are weighed in the content frame, as for `CMDAutoencoder`.
        output: "tanh" bounds the video to [-1, 1], "linear" does not.
        grid: Cells along height and width; at most the patches of a video.
        residual: As for `CMDAutoencoder`.
        motion_stride: As for `CMDAutoencoder`.
        warp: As for `CMDAutoencoder`.
    """

    planes: ClassVar[tuple[str, ...]] = ("grid",)

    def __init__(
        self,
        channels: int = 3,
        patch_size: int = 2,
        width: int = 384,
        motion_channels: int = 8,
        depth: int = 12,
        heads: int = 8,
        head_dim: int = 64,
        rotary: bool = True,
        qkv_bias: bool = False,
        weights: Weights = "channel",
        output: Literal["tanh", "linear"] = "tanh",
        grid: tuple[int, int] = (8, 8),
        residual: float = 0.0,
        motion_stride: int = 1,
        warp: bool = False,
    ) -> None:
        sizes = (channels, patch_size, width, motion_channels, depth, heads, head_dim)
        super().__init__(*sizes, rotary, qkv_bias, weights, output, residual, motion_stride, warp)
        height, width = grid
        self.grid = (height, width)

    def pool(self, features: Tensor) -> Tensor:
        cells = F.adaptive_avg_pool3d(features, (features.shape[2], *self.grid))
        return self.grid_head(cells.flatten(3))

    def spread(self, planes: Tensor, motion: Tensor) -> Tensor:
        cells = self.grid_stem(motion).unflatten(3, self.grid)
        return planes[:, :, None] + F.interpolate(cells, size=(cells.shape[2], *planes.shape[2:]))

    def slots(self, rows: int, columns: int) -> tuple[tuple[float, ...], ...]:
        height, width = self.grid
        if height > rows or width > columns:
            raise InputError(
                f"grid {height}x{width}: finer than the {rows}x{columns} patches of this video; give a coarser one"
            )
        return tuple((2.0, (i + 0.5) / height, (j + 0.5) / width) for i in range(height) for j in range(width))
