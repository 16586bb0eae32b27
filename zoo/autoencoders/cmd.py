"""CMD's autoencoder: a content frame by weighted sum over time, motion latents by pooling over an axis."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from cmd_lightning.errors import InputError, check_positive
from cmd_lightning.networks import AutoencoderNetwork, LatentSpec
from cmd_lightning.networks.unet import zero
from cmd_lightning.networks.video_transformer import VideoTransformer


class CMDAutoencoder(AutoencoderNetwork):
    """The autoencoder of CMD (paper section 3.2, equations 3 to 6, figure 4, table 5).

    The content frame is a convex combination of the frames, with weights from a softmax over time for each pixel
    and channel. The motion latent of a frame is its features averaged over the width (one slot a row of patches)
    and over the height (one slot a column): H' + W' slots, rows first. The defaults are those of table 5.

    Args:
        channels: Channels C of the video, 3 for pixels, 4 for Stable Diffusion's latents.
        patch_size: Side of a square patch; height and width of the video must be multiples of it.
        width: Channels C' of the transformers.
        motion_channels: Channels D of a motion slot.
        depth: Blocks of the encoder, and of the decoder.
        heads: Attention heads.
        head_dim: Channels a head. The paper's efficiency table fits depth 8 with 8 heads of 48, not its table 5.
        rotary: Whether the transformers know positions (PVDM's rotary encoding).
        qkv_bias: Whether the attention projections have a bias.
        weights: The softmax over time of equation 3 for each pixel and channel ("channel") or shared by the channels
            ("pixel"), or the plain mean ("mean", the row without weighted sum of table 4b).
        output: "tanh" bounds the video to [-1, 1] as the authors do for pixels, "linear" does not.
    """

    _supports_gradient_checkpointing = True
    _repeated_blocks = ["VideoTransformerBlock"]  # noqa: RUF012 (diffusers' own spelling)
    planes: ClassVar[tuple[str, ...]] = ("row", "column")
    """What motion is pooled to; each has a layer `NAME_head` from the encoder and `NAME_stem` to the decoder."""

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
        weights: Literal["channel", "pixel", "mean"] = "channel",
        output: Literal["tanh", "linear"] = "tanh",
    ) -> None:
        check_positive(channels=channels, patch_size=patch_size, width=width, motion_channels=motion_channels)
        super().__init__(motion_channels)
        self.channels, self.patch_size, self.weights, self.output = channels, patch_size, weights, output
        self.motion_channels, self.granularity = motion_channels, patch_size
        patch = (1, patch_size, patch_size)
        self.patchify = nn.Conv3d(channels, width, patch, stride=patch)
        self.encoder = VideoTransformer(width, depth, heads, head_dim, rotary, qkv_bias)
        if weights != "mean":
            self.content_head = nn.ConvTranspose3d(width, channels if weights == "channel" else 1, patch, stride=patch)
        for plane in self.planes:
            self.add_module(f"{plane}_head", nn.Conv2d(width, motion_channels, 1))

        self.content_stem = nn.Conv2d(channels, width, patch_size, stride=patch_size)
        for plane in self.planes:
            self.add_module(f"{plane}_stem", nn.Conv2d(motion_channels, width, 1))
        self.decoder = VideoTransformer(width, depth, heads, head_dim, rotary, qkv_bias)
        self.unpatchify = nn.ConvTranspose3d(width, channels, patch, stride=patch)
        self.initialize()

    @torch.no_grad()
    def initialize(self) -> None:
        """Starts where the reconstruction is the mean frame, so that training learns motion from the first step.

        The frame weights start equal, the transformers as identities, the motion planes at zero, and the way from the
        content frame's patches into the decoder and out of it is a rotation and its inverse, up to `output`. Where the
        width is less than the values of a patch, it is a projection, and fine detail is missing at first.
        """
        stems = [self.get_submodule(f"{plane}_stem") for plane in self.planes]
        heads = [] if self.weights == "mean" else [self.content_head]
        for layer in (*heads, *stems, self.content_stem, self.unpatchify):
            zero(layer)
        weight = self.content_stem.weight.flatten(1)
        rotation = nn.init.orthogonal_(
            torch.empty_like(weight, dtype=torch.float32)
        )  # torch has none in half precision
        self.content_stem.weight.copy_(rotation.view_as(self.content_stem.weight))
        self.unpatchify.weight.copy_(rotation.view_as(self.unpatchify.weight))

    def encode(self, video: Tensor) -> tuple[Tensor, Tensor]:
        features = self.encoder(self.patchify(video), self.run_block)  # (B, C', T, H', W')
        weights = self.frame_weights(video, features)
        content = (video * weights).sum(dim=2)
        return content, self.pool(features).tanh()

    def pool(self, features: Tensor) -> Tensor:
        """The features `(B, C', T, H', W')` of each motion slot, `(B, D, T, S)` (equation 4)."""
        rows = self.row_head(features.mean(dim=4))  # (B, D, T, H')
        columns = self.column_head(features.mean(dim=3))  # (B, D, T, W')
        return torch.cat([rows, columns], dim=3)

    def frame_weights(self, video: Tensor, features: Tensor) -> Tensor:
        """The weight of each frame, `(B, C or 1, T, H, W)`: not negative, their sum over time is one (equation 3)."""
        if self.weights == "mean":
            return torch.full_like(video[:, :1], 1 / video.shape[2])
        return self.content_head(features).float().softmax(dim=2).to(video.dtype)

    def decode(self, content: Tensor, motion: Tensor) -> Tensor:
        planes = self.content_stem(content)  # (B, C', H', W'), constant over time
        video = self.unpatchify(self.decoder(self.spread(planes, motion), self.run_block))
        return video.tanh() if self.output == "tanh" else video

    def spread(self, planes: Tensor, motion: Tensor) -> Tensor:
        """Features `(B, C', H', W')` of the content with the motion's added at each patch: `(B, C', T, H', W')`."""
        rows, columns = self.split_motion(motion, planes.shape[2])
        # A row is constant over the width, a column over the height.
        return planes[:, :, None] + self.row_stem(rows)[:, :, :, :, None] + self.column_stem(columns)[:, :, :, None, :]

    @staticmethod
    def split_motion(motion: Tensor, rows: int) -> tuple[Tensor, Tensor]:
        """The motion latent `(B, D, T, H' + W')` as row slots `(B, D, T, H')` and column slots `(B, D, T, W')`."""
        return motion[..., :rows], motion[..., rows:]

    def latent_spec(self, video_shape: tuple[int, int, int, int]) -> LatentSpec:
        channels, frames, height, width = video_shape
        if channels != self.channels:
            raise InputError(
                f"autoencoder: it takes {self.channels} channels, the video has {channels}; set its `channels`"
            )
        if height % self.patch_size or width % self.patch_size:
            raise InputError(
                f"size {height}x{width}: height and width must be multiples of the autoencoder's patch_size "
                f"{self.patch_size}; choose another data.size"
            )
        slots = self.slots(height // self.patch_size, width // self.patch_size)
        return LatentSpec((channels, height, width), (self.motion_channels, frames, len(slots)), slots)

    def slots(self, rows: int, columns: int) -> tuple[tuple[float, ...], ...]:
        """Kind and place of each motion slot, for a grid of patches."""
        places = [(0.0, (i + 0.5) / rows) for i in range(rows)] + [(1.0, (i + 0.5) / columns) for i in range(columns)]
        return tuple(places)
