"""A motion model that sees, at each slot, the part of the content frame on the slot's row or column."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cmd_lightning.errors import InputError
from cmd_lightning.networks import Condition, LatentSpec, MotionModel
from cmd_lightning.networks.dit import DiT, pad_to_multiple, unpatchify


class AlignedDiT(DiT, MotionModel):
    """Diffusion transformer over the motion latent with the content frame pooled onto the slots; not in the paper.

    The paper's model appends patches of the content frame to the sequence and has to learn which patch concerns which
    slot. Here the content frame's features are averaged along the axis that a slot was averaged along, and added to
    the slot in every frame: the sequence is shorter, and what belongs together is together from the first step. Slots
    must be laid out as in the paper: rows (axis 0), then columns (axis 1). Other arguments: as for `DiT`.

    Args:
        frames: Frames in a token.
    """

    def __init__(
        self,
        latent_spec: LatentSpec,
        condition_dim: int,
        width: int = 384,
        depth: int = 8,
        heads: int = 6,
        frames: int = 2,
        mlp_ratio: float = 4.0,
    ) -> None:
        channels = latent_spec.motion[0]
        super().__init__(condition_dim, channels * frames, width, depth, heads, mlp_ratio)
        self.frames = frames
        axes = [slot[0] for slot in latent_spec.slots]
        rows, columns = axes.count(0.0), axes.count(1.0)
        content_channels, height, breadth = latent_spec.content
        if axes != [0.0] * rows + [1.0] * columns or not rows or not columns or height % rows or breadth % columns:
            raise InputError("AlignedDiT: the slots are not the content frame's rows and columns; use MotionDiT")
        self.stem = nn.Conv2d(channels, width, (frames, 1), stride=(frames, 1))
        patch = (height // rows, breadth // columns)
        self.content_stem = nn.Sequential(
            nn.Conv2d(content_channels, width, patch, stride=patch),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.SiLU(),
        )
        self.content_rows, self.content_columns = nn.Linear(width, width), nn.Linear(width, width)

    def prepare(self, content: Tensor) -> Tensor:
        """The content frame's features at the slots, `(B, S, width)`."""
        planes = self.content_stem(content)  # (B, width, rows, columns)
        return torch.cat([self.content_rows(planes.mean(3).mT), self.content_columns(planes.mean(2).mT)], dim=1)

    def forward(self, motion: Tensor, timestep: Tensor, context: Tensor, condition: Condition | None) -> Tensor:
        frames = motion.shape[2]
        tokens = self.stem(pad_to_multiple(motion, self.frames, 1))  # (B, width, T / frames, S)
        x = tokens.permute(0, 2, 3, 1) + context[:, None]
        x = x.flatten(1, 2) + self.positions(tokens, *tokens.shape[2:])
        return unpatchify(self.transform(x, timestep, condition), (self.frames, 1), tokens.shape[2])[:, :, :frames]
