"""A denoiser of three planes, as PVDM has it: one U-Net over the planes of a video autoencoder."""

from __future__ import annotations

from itertools import groupby

import torch
from torch import Tensor, nn

from cmd_lightning.errors import InputError
from cmd_lightning.networks import Condition, LatentSpec, VideoDenoiser
from cmd_lightning.networks.embeddings import coordinates_embedding, embedded, grid_coordinates
from cmd_lightning.networks.mixing import PointAttention
from cmd_lightning.networks.unet import UNet


class TriplaneUNet(UNet, VideoDenoiser):
    """U-Net over all planes of a latent at once (after PVDM, arXiv 2302.07685, from which CMD descends).

    The content plane, and a plane of frames × slots for each kind of motion slot (rows and columns, for
    `TriplaneAutoencoder`), pass through the same convolutions; from `attention_from_level` on, every point attends to
    the points of all planes. What a plane is, and where in it a point lies, is added at the entrance. Timestep and
    pooled condition enter every residual block. Other arguments: as for `UNet`.

    Args:
        latent_spec: Shapes of the planes; motion and content have the same number of channels.
        condition_dim: Channels K of the pooled condition; 0 for an unconditional model.
        width: Channels of the first level; even.
        heads: Attention heads; must divide the channels of the levels that attend.
        attention_from_level: The first level that attends; earlier ones only convolve.

    Raises:
        InputError: As for `UNet`, or planes of unequal channels.
    """

    _no_split_modules = ["ResBlock", "PointAttention"]  # type: ignore[assignment]  # noqa: RUF012 (diffusers' name, typed as None)

    def __init__(
        self,
        latent_spec: LatentSpec,
        condition_dim: int,
        width: int = 128,
        multipliers: tuple[int, ...] = (1, 2, 4, 4),
        layers: int = 2,
        heads: int = 8,
        attention_from_level: int = 1,
    ) -> None:
        channels = latent_spec.content[0]
        if latent_spec.motion[0] != channels:
            raise InputError(
                f"TriplaneUNet: the motion latent has {latent_spec.motion[0]} channels, the content frame {channels}; "
                "it denoises planes of equal channels: give an autoencoder with such planes, as TriplaneAutoencoder"
            )

        def mixer(channels: int, level: int) -> nn.Module:
            return PointAttention(channels, heads)

        super().__init__(
            channels, width, multipliers, layers, heads, lambda level: level >= attention_from_level, mixer
        )
        self.latent_spec = latent_spec
        self.slots = [len([*group]) for _, group in groupby(slot[0] for slot in latent_spec.slots)]
        self.kinds = nn.Parameter(0.02 * torch.randn(1 + len(self.slots), width))
        self.condition = nn.Linear(condition_dim, 4 * width) if condition_dim else None

    def forward(self, latent: Tensor, timestep: Tensor, condition: Condition | None) -> Tensor:
        signal = embedded(self.timestep, self.condition, timestep, condition, latent.dtype)
        content, motion = self.latent_spec.unpack(latent)
        planes = [content, *motion.split(self.slots, dim=3)]
        planes = [self.stem(plane) + self.position(kind, plane) for kind, plane in enumerate(planes)]
        content, *kinds = self.transform(planes, signal)
        return LatentSpec.pack(content, torch.cat(kinds, dim=3))

    def position(self, kind: int, plane: Tensor) -> Tensor:
        """What is added to every point of a plane, `(width, H, W)`: the kind of the plane and the point's place."""
        size = plane.shape[2:]
        width = self.kinds.shape[1]
        place = coordinates_embedding(grid_coordinates(*size, device=plane.device), width).to(self.kinds.dtype)
        return (self.kinds[kind] + place).mT.unflatten(1, size)
