"""A motion model that is a U-Net over time and the grid of the motion latent."""

from __future__ import annotations

import math
from itertools import groupby

import torch
from torch import Tensor, nn

from cmd_lightning.errors import check_positive
from cmd_lightning.networks import Condition, LatentSpec, MotionModel
from cmd_lightning.networks.dit import pad_to_multiple
from cmd_lightning.networks.embeddings import embedded
from cmd_lightning.networks.mixing import SpaceTimeMixing
from cmd_lightning.networks.slots import SlotFeatures
from cmd_lightning.networks.unet import UNet, velocity_of


class GridUNet(UNet, MotionModel):
    """U-Net over time × grid: convolutions and attention within an image, a perceptron over all frames of a point.

    Made for motion on a grid; not in the paper (the U-Net is after Ho et al., arXiv 2204.03458, the perceptron after
    MLP-Mixer, arXiv 2105.01601). It works for clips of one length. Rows, columns and slots without a place are images
    of height 1. The content frame is pooled onto the slots; timestep and pooled condition scale and shift the norms.

    Args:
        latent_spec: Shapes of content frame and motion latent, and positions of the slots; any layout.
        condition_dim: Channels K of the pooled condition; 0 for an unconditional model.
        width: Channels of the first level; even.
        multipliers: Channels of each level over `width`; each level halves the grid of the one before, not time.
        layers: Residual blocks per level of the encoder; the decoder has one more.
        heads: Attention heads; must divide the channels of all levels.
        frames: Frames stacked in the channels of one image. Half as many make the perceptrons four times as large.
        content_patch_size: Side of a square patch of the content frame.
        clean: Whether the layers predict the clean motion latent, from which the velocity of `FlowMatching` follows
            (see `velocity_of`); for that objective only. The output then starts as the velocity of motion zero.
        attention_from_level: The first level where points attend to each other.
    """

    _repeated_blocks = ["ResBlock", "SpaceTimeMixing"]  # noqa: RUF012 (diffusers' own spelling)
    _no_split_modules = ["ResBlock", "SpaceTimeMixing"]  # type: ignore[assignment]  # noqa: RUF012 (diffusers' name, typed as None)

    def __init__(
        self,
        latent_spec: LatentSpec,
        condition_dim: int,
        width: int = 192,
        multipliers: tuple[int, ...] = (1, 2, 4),
        layers: int = 2,
        heads: int = 8,
        frames: int = 4,
        content_patch_size: int = 4,
        clean: bool = False,
        attention_from_level: int = 1,
    ) -> None:
        check_positive(frames=frames)
        channels, length = latent_spec.motion[0] * frames, math.ceil(latent_spec.motion[1] / frames)

        def mixer(channels: int, level: int) -> SpaceTimeMixing:
            return SpaceTimeMixing(channels, length, heads if level >= attention_from_level else 0)

        super().__init__(channels, width, multipliers, layers, heads, lambda level: True, mixer, adaptive=True)
        self.condition = nn.Linear(condition_dim, 4 * width) if condition_dim else None
        self.slots = SlotFeatures(latent_spec, width, content_patch_size)
        self.frames, self.sizes, self.clean = frames, map_sizes(latent_spec), clean

    def prepare(self, content: Tensor) -> Tensor:
        """The features of the slots, `(B, S, width)`."""
        return self.slots(content)

    def forward(self, motion: Tensor, timestep: Tensor, context: Tensor, condition: Condition | None) -> Tensor:
        signal = embedded(self.timestep, self.condition, timestep, condition, motion.dtype)
        groups = pad_to_multiple(motion, self.frames, 1).unflatten(2, (-1, self.frames))
        length = groups.shape[2]  # (B, D, length, frames, S)
        noisy = self.to_maps(groups.permute(0, 2, 1, 3, 4).flatten(2, 3).flatten(0, 1))
        still = self.to_maps(context.mT.repeat_interleave(length, dim=0))
        maps = [self.stem(x) + given for x, given in zip(noisy, still, strict=True)]
        maps = self.transform(maps, signal)
        said = torch.cat([x.flatten(2) for x in maps], dim=2)  # (B * length, D * frames, S)
        said = said.unflatten(1, (-1, self.frames)).unflatten(0, (-1, length)).transpose(1, 2)
        said = said.flatten(2, 3)[:, :, : motion.shape[2]]
        return velocity_of(motion, said, timestep) if self.clean else said

    def to_maps(self, x: Tensor) -> list[Tensor]:
        """`(N, C, S)` to maps `(N, C, H, W)`, one for each kind of slot."""
        parts = x.split([math.prod(size) for size in self.sizes], dim=2)
        return [part.unflatten(2, size) for part, size in zip(parts, self.sizes, strict=True)]


def map_sizes(latent_spec: LatentSpec) -> list[tuple[int, int]]:
    """Height and width of each run of slots of one kind: of a full grid its own, else 1 and their number."""
    sizes = []
    for kind, run in groupby(latent_spec.slots, key=lambda slot: slot[0]):
        slots = list(run)
        rows = len({slot[1] for slot in slots}) if kind == 2.0 else 1
        sizes.append((rows, len(slots) // rows) if len(slots) % rows == 0 else (1, len(slots)))
    return sizes
