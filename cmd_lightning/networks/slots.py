"""Motion slots of any layout: where they lie, what of the content frame they cover, a transformer of slot tokens."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cmd_lightning.networks.contracts import MotionModel
from cmd_lightning.networks.dit import DiT, pad_to_multiple, unpatchify
from cmd_lightning.networks.embeddings import coordinates_embedding
from cmd_lightning.networks.latents import Condition, LatentSpec


def slot_embedding(latent_spec: LatentSpec, width: int) -> Tensor:
    """Fixed sinusoidal encoding of kind and position of each slot, `(S, width)`."""
    number = len(latent_spec.slots)
    axes = max(len(slot) for slot in latent_spec.slots)
    places = [[kind, *(number * place for place in position)] for kind, *position in latent_spec.slots]
    return coordinates_embedding(torch.tensor([place + [0.0] * (axes - len(place)) for place in places]), width)


def slot_coverage(latent_spec: LatentSpec, patch_size: int) -> Tensor:
    """How much each patch of the content frame counts for each slot, `(S, patches)`, row-major; a row's sum is one.

    Along an axis on which the slot has a place, patches count by a triangle around it, as wide as two slots or two
    patches, whichever are larger; along the others all count the same.
    """
    placed = {0.0: (0,), 1.0: (1,), 2.0: (0, 1)}  # by kind of slot: the axes along which it has a place
    sides = [side / patch_size for side in latent_spec.content[1:]]
    coverage = []
    for kind, *position in latent_spec.slots:
        near = [torch.ones(math.ceil(side)) for side in sides]
        for i, axis in enumerate(placed.get(kind, ())):
            places = len({slot[1 + i] for slot in latent_spec.slots if slot[0] == kind})
            distance = (torch.arange(len(near[axis])) + 0.5 - position[i] * sides[axis]).abs()
            near[axis] = (1 - distance / max(1.0, sides[axis] / places)).clamp_min(0)
        coverage.append(torch.outer(*near).flatten())
    weights = torch.stack(coverage)
    return weights / weights.sum(dim=1, keepdim=True)


class SlotFeatures(nn.Module):
    """What is known of each slot before any denoising: its place, and the content frame's features there."""

    coverage: Tensor
    embedding: Tensor

    def __init__(self, latent_spec: LatentSpec, width: int, patch_size: int) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.stem = nn.Sequential(
            nn.Conv2d(latent_spec.content[0], width, patch_size, stride=patch_size),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.SiLU(),
        )
        self.content, self.place = nn.Linear(width, width), nn.Linear(width, width)
        self.register_buffer("coverage", slot_coverage(latent_spec, patch_size))
        self.register_buffer("embedding", slot_embedding(latent_spec, width))

    def forward(self, content: Tensor) -> Tensor:
        """Content frame `(B, C, H, W)` to `(B, S, width)`."""
        patches = self.stem(pad_to_multiple(content, self.patch_size, self.patch_size)).flatten(2)
        return self.content(F.linear(patches, self.coverage).mT) + self.place(self.embedding)


class SlotDiT(DiT, MotionModel):
    """A diffusion transformer whose tokens are some frames of one slot, in any layout of slots.

    The content frame is pooled onto the slots (`SlotFeatures`), once per sampling, and added to their tokens.

    Args:
        latent_spec: Shapes of content frame and motion latent, and where the slots are.
        frames: Frames in a token.
        content_patch_size: Side of a square patch of the content frame.
        mixing: As for `DiT`, like the other arguments; tokens `(B, N, width)` are row-major (T / frames, S).
    """

    def __init__(
        self,
        latent_spec: LatentSpec,
        condition_dim: int,
        width: int,
        depth: int,
        heads: int,
        frames: int,
        content_patch_size: int,
        mlp_ratio: float,
        mixing: Callable[[int], nn.Module],
    ) -> None:
        channels = latent_spec.motion[0]
        super().__init__(condition_dim, channels * frames, width, depth, heads, mlp_ratio, mixing)
        self.frames = frames
        self.stem = nn.Conv2d(channels, width, (frames, 1), stride=(frames, 1))
        self.slots = SlotFeatures(latent_spec, width, content_patch_size)

    def prepare(self, content: Tensor) -> Tensor:
        """The features of the slots, `(B, S, width)`."""
        return self.slots(content)

    def forward(self, motion: Tensor, timestep: Tensor, context: Tensor, condition: Condition | None) -> Tensor:
        frames = motion.shape[2]
        tokens = self.stem(pad_to_multiple(motion, self.frames, 1)).permute(0, 2, 3, 1)  # (B, T / frames, S, width)
        rows = tokens.shape[1]
        x = tokens + context[:, None] + self.positions(tokens, rows)[:, None]
        x = self.transform(x.flatten(1, 2), timestep, condition)
        return unpatchify(x, (self.frames, 1), rows)[:, :, :frames]
