"""PVDM's three planes: a learned content plane next to the planes of rows and columns."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from cmd_lightning.errors import InputError, check_positive
from cmd_lightning.networks import AutoencoderNetwork, LatentSpec
from cmd_lightning.networks.video_transformer import VideoTransformer


class TriplaneAutoencoder(AutoencoderNetwork):
    """Features pooled over each of the three axes, as one latent of three planes (after PVDM, arXiv 2302.07685).

    Where CMD keeps an image of the size of the video, the content here is a plane of features averaged over time, on
    the grid of patches; the motion latent has a slot for each row and each column of patches, rows first. All planes
    have the same channels, so that one model can denoise them together, and lie within [-1, 1]. The content is no
    image: it has another size than the video, and no image model fits it. PVDM pools by small transformers, this
    network by the mean. The defaults are PVDM's, for 256 × 256 pixels.

    Args:
        channels: Channels C of the video, 3 for pixels, 4 for Stable Diffusion's latents.
        patch_size: Side of a square patch; height and width of the video must be multiples of it.
        width: Channels of the transformers.
        plane_channels: Channels D of every plane.
        depth: Blocks of the encoder, and of the decoder.
        heads: Attention heads.
        head_dim: Channels a head.
        rotary: Whether the transformers know positions.
        qkv_bias: Whether the attention projections have a bias.
        output: "tanh" bounds the video to [-1, 1], "linear" does not.
    """

    _supports_gradient_checkpointing = True
    _repeated_blocks = ["VideoTransformerBlock"]  # noqa: RUF012 (diffusers' own spelling)

    def __init__(
        self,
        channels: int = 3,
        patch_size: int = 8,
        width: int = 384,
        plane_channels: int = 4,
        depth: int = 8,
        heads: int = 8,
        head_dim: int = 64,
        rotary: bool = True,
        qkv_bias: bool = False,
        output: Literal["tanh", "linear"] = "tanh",
    ) -> None:
        check_positive(channels=channels, patch_size=patch_size, width=width, plane_channels=plane_channels)
        super().__init__(plane_channels)
        self.channels, self.patch_size, self.output = channels, patch_size, output
        self.plane_channels, self.granularity = plane_channels, patch_size
        patch = (1, patch_size, patch_size)
        self.patchify = nn.Conv3d(channels, width, patch, stride=patch)
        self.encoder = VideoTransformer(width, depth, heads, head_dim, rotary, qkv_bias)
        self.plane_heads = nn.ModuleList(nn.Conv2d(width, plane_channels, 1) for _ in range(3))
        self.plane_stems = nn.ModuleList(nn.Conv2d(plane_channels, width, 1) for _ in range(3))
        self.decoder = VideoTransformer(width, depth, heads, head_dim, rotary, qkv_bias)
        self.unpatchify = nn.ConvTranspose3d(width, channels, patch, stride=patch)

    def encode(self, video: Tensor) -> tuple[Tensor, Tensor]:
        features = self.encoder(self.patchify(video), self.run_block)  # (B, C', T, H', W')
        # Averages over time (B, C', H', W'), over the width (B, C', T, H'), over the height (B, C', T, W').
        content, rows, columns = (
            head(features.mean(dim=axis)).tanh() for head, axis in zip(self.plane_heads, (2, 4, 3), strict=True)
        )
        return content, torch.cat([rows, columns], dim=3)

    def decode(self, content: Tensor, motion: Tensor) -> Tensor:
        height, width = content.shape[2:]
        planes = (content, *motion.split([height, width], dim=3))
        content, rows, columns = (stem(plane) for stem, plane in zip(self.plane_stems, planes, strict=True))
        features = content[:, :, None, :, :] + rows[:, :, :, :, None] + columns[:, :, :, None, :]
        video = self.unpatchify(self.decoder(features, self.run_block))
        return video.tanh() if self.output == "tanh" else video

    def latent_spec(self, video_shape: tuple[int, int, int, int]) -> LatentSpec:
        channels, frames, height, width = video_shape
        patch = self.patch_size
        if channels != self.channels:
            raise InputError(
                f"autoencoder: it takes {self.channels} channels, the video has {channels}; set its `channels`"
            )
        if height % patch or width % patch:
            raise InputError(
                f"size {height}x{width}: height and width must be multiples of the autoencoder's patch_size {patch}; "
                "choose another data.size"
            )
        rows, columns = height // patch, width // patch
        slots = [(0.0, (i + 0.5) / rows) for i in range(rows)]
        slots += [(1.0, (i + 0.5) / columns) for i in range(columns)]
        return LatentSpec(
            (self.plane_channels, rows, columns), (self.plane_channels, frames, rows + columns), tuple(slots)
        )
