"""CMD's autoencoder: a content frame by weighted sum over time, motion latents by pooling over an axis."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cmd_lightning.errors import InputError, check_positive
from cmd_lightning.networks import AutoencoderNetwork, LatentSpec
from cmd_lightning.networks.unet import zero
from cmd_lightning.networks.video_transformer import VideoTransformer

Weights = Literal["channel", "pixel", "patch", "frame", "mean", "first", "middle"]
"""How frames are weighted in the content frame; "first" and "middle" use one frame unchanged."""
KEY_FRAMES = ("first", "middle")


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
        weights: The content frame. A softmax over time (equation 3) for each pixel and channel ("channel", the
            paper's), shared by the channels ("pixel"), for each patch and upsampled before the softmax, so that
            neighbouring pixels cannot keep different frames ("patch"), or for each frame as a whole ("frame"); the
            plain mean ("mean", the row without weighted sum of table 4b); or one real frame, "first" or "middle", so
            that any image is a valid content frame (as in Reducio, arXiv 2411.13552, and VTok, arXiv 2602.04202).
        output: "tanh" bounds the video to [-1, 1] as the authors do for pixels, "linear" does not.
        residual: Largest value of a learned image at the resolution of the patches that is upsampled and added to the
            content frame (after the residuals of DeCo-VAE, arXiv 2511.14530); 0 for none.
        motion_stride: Video frames per frame of the motion latent; must divide the number of frames.
        warp: Whether the decoder sees the content frame warped for each frame, by a flow that the motion latent gives
            (as in LFDM, arXiv 2303.13744), rather than the same for all.
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
        weights: Weights = "channel",
        output: Literal["tanh", "linear"] = "tanh",
        residual: float = 0.0,
        motion_stride: int = 1,
        warp: bool = False,
    ) -> None:
        check_positive(channels=channels, patch_size=patch_size, width=width, motion_channels=motion_channels)
        check_positive(motion_stride=motion_stride)
        if residual < 0:
            raise InputError(f"residual {residual}: give the largest value that may be added, or 0 for none")
        super().__init__(motion_channels)
        self.channels, self.patch_size, self.weights, self.output = channels, patch_size, weights, output
        self.motion_channels, self.granularity = motion_channels, patch_size
        self.residual, self.motion_stride, self.warp = residual, motion_stride, warp
        patch = (1, patch_size, patch_size)
        self.patchify = nn.Conv3d(channels, width, patch, stride=patch)
        self.encoder = VideoTransformer(width, depth, heads, head_dim, rotary, qkv_bias)
        if weights in ("channel", "pixel"):
            outputs = channels if weights == "channel" else 1
            self.content_head: nn.Module = nn.ConvTranspose3d(width, outputs, patch, stride=patch)
        elif weights in ("patch", "frame"):
            self.content_head = nn.Conv3d(width, 1, 1)
        if residual:
            self.residual_head = nn.Conv2d(width, channels, 1)
        span = (motion_stride, 1)
        for plane in self.planes:
            self.add_module(f"{plane}_head", nn.Conv2d(width, motion_channels, span, stride=span))

        self.content_stem = nn.Conv2d(channels, width, patch_size, stride=patch_size)
        for plane in self.planes:
            stem = nn.Conv2d if motion_stride == 1 else nn.ConvTranspose2d
            self.add_module(f"{plane}_stem", stem(motion_channels, width, span, stride=span))
        if warp:
            self.flow_head = nn.Conv3d(width, 2, 1, bias=False)  # no flow where there is no motion
        self.decoder = VideoTransformer(width, depth, heads, head_dim, rotary, qkv_bias)
        self.unpatchify = nn.ConvTranspose3d(width, channels, patch, stride=patch)
        self.initialize()

    @torch.no_grad()
    def initialize(self) -> None:
        """Starts where each reconstructed frame is the mean frame, or the key frame, so that motion is learned at once.

        The frame weights start equal, the transformers as identities, residual and motion planes at zero, and the way
        from the content frame's patches into the decoder and out of it is a rotation and its inverse, up to `output`.
        Where the width is less than the values of a patch, it keeps the lowest frequencies, and fine detail is missing
        at first.
        """
        stems = [self.get_submodule(f"{plane}_stem") for plane in self.planes]
        heads = [getattr(self, name) for name in ("content_head", "residual_head") if hasattr(self, name)]
        for layer in (*heads, *stems, self.content_stem, self.unpatchify):
            zero(layer)
        weight = self.content_stem.weight
        if len(weight) < weight[0].numel():
            rotation = low_frequencies(self.channels, self.patch_size)[: len(weight)]
        else:  # in float32: torch has no orthogonal matrices in half precision
            rotation = nn.init.orthogonal_(torch.empty_like(weight.flatten(1), dtype=torch.float32))
        self.content_stem.weight.copy_(rotation.view_as(self.content_stem.weight))
        self.unpatchify.weight.copy_(rotation.view_as(self.unpatchify.weight))

    def encode(self, video: Tensor) -> tuple[Tensor, Tensor]:
        features = self.encoder(self.patchify(video), self.run_block)  # (B, C', T, H', W')
        return self.content_frame(video, features), self.pool(features).tanh()

    @property
    def content_source(self) -> str | None:
        return f"{self.weights} frame" if self.weights in KEY_FRAMES and not self.residual else None

    def content_reach(self, frames: int) -> int:
        if self.content_source is None:
            return frames
        return 1 if self.weights == "first" else frames // 2 + 1

    def encode_content(self, video: Tensor) -> Tensor:
        if self.weights in (*KEY_FRAMES, "mean") and not self.residual:
            return self.content_frame(video, video)  # no features are asked for
        return super().encode_content(video)

    def content_frame(self, video: Tensor, features: Tensor) -> Tensor:
        """The content frame `(B, C, H, W)` of a video and its features `(B, C', T, H', W')`."""
        if self.weights in KEY_FRAMES:
            content = video[:, :, 0 if self.weights == "first" else video.shape[2] // 2]
        else:
            content = (video * self.frame_weights(video, features)).sum(dim=2)
        if self.residual:
            residual = self.residual * self.residual_head(features.mean(dim=2)).tanh()
            content = content + F.interpolate(residual, content.shape[2:], mode="bilinear")
        return content

    def pool(self, features: Tensor) -> Tensor:
        """The features `(B, C', T, H', W')` of each motion slot, `(B, D, T, S)` (equation 4)."""
        rows = self.row_head(features.mean(dim=4))  # (B, D, T, H')
        columns = self.column_head(features.mean(dim=3))  # (B, D, T, W')
        return torch.cat([rows, columns], dim=3)

    def frame_weights(self, video: Tensor, features: Tensor) -> Tensor:
        """The weights of the frames over time, which add up to one (equation 3); they broadcast to `video`'s shape."""
        if self.weights == "mean":
            return torch.full_like(video[:, :1], 1 / video.shape[2])
        if self.weights == "frame":
            features = features.mean(dim=(3, 4), keepdim=True)
        logits = self.content_head(features).float()
        if self.weights == "patch":
            logits = F.interpolate(logits, video.shape[2:], mode="trilinear")
        return logits.softmax(dim=2).to(video.dtype)

    def decode(self, content: Tensor, motion: Tensor) -> Tensor:
        planes = self.content_stem(content)  # (B, C', H', W'), constant over time
        if self.warp:
            moved = self.spread(torch.zeros_like(planes), motion)
            features = moved + self.warped(content, self.flow_head(moved))
        else:
            features = self.spread(planes, motion)
        video = self.unpatchify(self.decoder(features, self.run_block))
        return video.tanh() if self.output == "tanh" else video

    def warped(self, content: Tensor, flow: Tensor) -> Tensor:
        """Features `(B, C', T, H', W')` of the content frame as `flow` `(B, 2, T, H', W')` has it in each frame.

        A flow says for each patch where its pixels come from, x and y, in halves of the sides of the image.
        """
        batch, _, frames = flow.shape[:3]
        flow = F.interpolate(flow.transpose(1, 2).flatten(0, 1), content.shape[2:], mode="bilinear")
        start = torch.eye(2, 3, dtype=flow.dtype, device=flow.device).expand(len(flow), 2, 3)
        places = F.affine_grid(start, [len(flow), 1, *content.shape[2:]], align_corners=False)
        images = content.repeat_interleave(frames, dim=0)
        images = F.grid_sample(images, places + flow.movedim(1, 3), padding_mode="border", align_corners=False)
        return self.content_stem(images).unflatten(0, (batch, frames)).transpose(1, 2)

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
        if frames % self.motion_stride:
            raise InputError(
                f"frames {frames}: must be a multiple of the autoencoder's motion_stride {self.motion_stride}; choose "
                "another data.num_frames"
            )
        slots = self.slots(height // self.patch_size, width // self.patch_size)
        motion = (self.motion_channels, frames // self.motion_stride, len(slots))
        return LatentSpec((channels, height, width), motion, slots)

    def slots(self, rows: int, columns: int) -> tuple[tuple[float, ...], ...]:
        """Kind and place of each motion slot, for a grid of patches."""
        places = [(0.0, (i + 0.5) / rows) for i in range(rows)] + [(1.0, (i + 0.5) / columns) for i in range(columns)]
        return tuple(places)


def low_frequencies(channels: int, side: int) -> Tensor:
    """An orthonormal basis of patches `(N, N)`, N = channels · side², low frequencies first: a cosine transform.

    Over the channels it is a transform too, which for RGB yields the mean and two colour differences; these count as
    less visible, like a frequency that is half a patch higher.
    """
    colour, line = cosines(channels), cosines(side)
    basis = torch.einsum("ac,by,dx->abdcyx", colour, line, line).flatten(3).flatten(0, 2)
    difference, down, across = torch.meshgrid(torch.arange(channels), *[torch.arange(side)] * 2, indexing="ij")
    order = (down + across + (difference > 0) * (side // 2)).flatten().argsort(stable=True)
    return basis[order]


def cosines(number: int) -> Tensor:
    """The discrete cosine transform (type II, orthonormal) of so many values, a frequency per row."""
    frequency, place = torch.arange(number)[:, None], torch.arange(number)
    waves = torch.cos(torch.pi / number * (place + 0.5) * frequency)
    return waves / waves.norm(dim=1, keepdim=True)
