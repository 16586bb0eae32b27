"""A motion model that is a U-Net over the planes of the motion latent."""

from __future__ import annotations

import math
from itertools import groupby, pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cmd_lightning.networks import Condition, LatentSpec, MotionModel
from cmd_lightning.networks.dit import pad_to_multiple
from cmd_lightning.networks.embeddings import TimestepEmbedding, embedded
from cmd_lightning.networks.slots import SlotFeatures
from cmd_lightning.networks.unet import zero


class PlanesUNet(MotionModel):
    """U-Net over planes of time × slots, one for each kind of slot; not in the paper.

    The paper's latents are two planes, time × rows and time × columns; any layout has one for each kind of slot. All
    planes go through the same convolutions side by side; each block also hands them the mean over all slots of a frame.
    The content frame is pooled onto the slots; timestep and pooled condition scale and shift the norms.

    Args:
        width: Channels of the first level.
        multipliers: Channels of each level over `width`; each level halves time and slots of the one before.
        blocks: Residual blocks a level, on the way down and on the way up.
        content_patch_size: Side of a square patch of the content frame.
    """

    _supports_gradient_checkpointing = True
    _repeated_blocks = ["ResidualBlock"]  # noqa: RUF012 (diffusers' own spelling)

    def __init__(
        self,
        latent_spec: LatentSpec,
        condition_dim: int,
        width: int = 192,
        multipliers: tuple[int, ...] = (1, 2, 4),
        blocks: int = 2,
        content_patch_size: int = 4,
    ) -> None:
        super().__init__()
        channels = latent_spec.motion[0]
        signal, levels = 4 * width, [width * multiplier for multiplier in multipliers]
        self.multiple = 2 ** (len(levels) - 1)
        self.timestep = TimestepEmbedding(signal)
        self.condition = nn.Linear(condition_dim, signal) if condition_dim else None
        self.slots = SlotFeatures(latent_spec, width, content_patch_size)
        planes, places = plane_indices(latent_spec, self.multiple)
        self.register_buffer("planes", planes)
        self.register_buffer("places", places)

        def stage(inputs: int, outputs: int) -> nn.ModuleList:
            return nn.ModuleList(ResidualBlock(inputs if i == 0 else outputs, outputs, signal) for i in range(blocks))

        self.stem = nn.Conv2d(channels, width, 3, padding=1)
        self.down = nn.ModuleList(stage(level, level) for level in levels)
        self.up = nn.ModuleList(stage(2 * level, level) for level in levels[:-1])
        pairs = list(pairwise(levels))
        self.shrink = nn.ModuleList(nn.Conv2d(fine, coarse, 3, stride=2, padding=1) for fine, coarse in pairs)
        self.grow = nn.ModuleList(nn.Conv2d(coarse, fine, 3, padding=1) for fine, coarse in pairs)
        self.head = nn.Sequential(norm(width), nn.SiLU(), zero(nn.Conv2d(width, channels, 3, padding=1)))

    def prepare(self, content: Tensor) -> Tensor:
        """The features of the slots, `(B, S, width)`."""
        return self.slots(content)

    def forward(self, motion: Tensor, timestep: Tensor, context: Tensor, condition: Condition | None) -> Tensor:
        batch, _, frames, _ = motion.shape
        signal = embedded(self.timestep, self.condition, timestep, condition, motion.dtype)
        slots = context.mT[:, :, None]  # (B, width, 1, S)
        x = self.stem(self.to_planes(pad_to_multiple(motion, self.multiple, 1))) + self.to_planes(slots)

        skips = []
        for level, stage in enumerate(self.down):
            if level:
                x = self.shrink[level - 1](x)
            for block in stage.children():
                x = self.run_block(block, x, signal)
            skips.append(x)
        for level in reversed(range(len(self.up))):
            x = self.grow[level](F.interpolate(x, scale_factor=2.0))
            x = torch.cat([x, skips[level]], dim=1)
            for block in self.up[level].children():
                x = self.run_block(block, x, signal)
        x = self.head(x).unflatten(0, (batch, -1)).permute(0, 2, 3, 1, 4).flatten(3)  # (B, D, T, P * L)
        return x[:, :, :frames, self.places]

    def to_planes(self, x: Tensor) -> Tensor:
        """`(B, C, T, S)` to its P planes, `(B * P, C, T, L)`."""
        return x[..., self.planes].permute(0, 3, 1, 2, 4).flatten(0, 1)


class ResidualBlock(nn.Module):
    """Two convolutions with norms, the second norm scaled and shifted by the signal; starts without effect."""

    def __init__(self, inputs: int, outputs: int, signal: int) -> None:
        super().__init__()
        self.enter = nn.Sequential(norm(inputs), nn.SiLU(), nn.Conv2d(inputs, outputs, 3, padding=1))
        self.across = nn.Conv1d(outputs, outputs, 1)
        self.norm = norm(outputs)
        self.modulation = nn.Sequential(nn.SiLU(), nn.Linear(signal, 2 * outputs))
        self.leave = nn.Sequential(nn.SiLU(), zero(nn.Conv2d(outputs, outputs, 3, padding=1)))
        self.skip = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor, signal: Tensor) -> Tensor:
        """`x` `(B * P, inputs, T, L)`, `signal` `(B, signal)`."""
        planes = len(x) // len(signal)
        hidden = self.enter(x)
        shared = self.across(hidden.mean(dim=3).unflatten(0, (-1, planes)).mean(dim=1))  # (B, outputs, T)
        hidden = self.norm(hidden + shared.repeat_interleave(planes, dim=0)[..., None])
        modulation = self.modulation(signal).repeat_interleave(planes, dim=0)[..., None, None]
        scale, shift = modulation.chunk(2, dim=1)
        return self.skip(x) + self.leave(hidden * (1 + scale) + shift)


def plane_indices(latent_spec: LatentSpec, multiple: int) -> tuple[Tensor, Tensor]:
    """Which slots make up the planes, `(P, L)`, and where in these (flat) each slot is, `(S,)`.

    A plane is a run of slots of one kind. All planes are as long as the longest, made a multiple of `multiple`; what is
    missing repeats the last slot.
    """
    lengths = [len(list(run)) for _, run in groupby(slot[0] for slot in latent_spec.slots)]
    length = -(-max(lengths) // multiple) * multiple
    starts = [sum(lengths[:i]) for i in range(len(lengths))]
    steps = torch.arange(length)
    planes = [start + steps.clamp_max(own - 1) for start, own in zip(starts, lengths, strict=True)]
    places = [i * length + steps[:own] for i, own in enumerate(lengths)]
    return torch.stack(planes), torch.cat(places)


def norm(channels: int) -> nn.GroupNorm:
    """Group norm with up to 8 groups."""
    return nn.GroupNorm(math.gcd(8, channels), channels)
