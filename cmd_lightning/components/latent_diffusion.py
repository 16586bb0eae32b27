"""What content and motion diffusion share: a denoiser of one of the latents of a frozen autoencoder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from cmd_lightning.components.diffusion_stage import DiffusionStage
from cmd_lightning.components.frozen_autoencoder import FrozenAutoencoder
from cmd_lightning.networks import LatentSpec
from cmd_lightning.networks.contracts import AutoencoderNetwork


class LatentDiffusion(FrozenAutoencoder, DiffusionStage):
    """Trains a denoiser of one of the latents of a frozen autoencoder (paper equations 7 and 8).

    Args:
        network: Makes the network from the latents' shapes and the number of condition channels.
        autoencoder: Checkpoint of the autoencoder stage, or the trained network itself.
        video_shape: `(C, T, H, W)` to build for; by default what the autoencoder was trained on.
        **kwargs: As for `DiffusionStage`.
    """

    def __init__(
        self,
        network: Callable[[LatentSpec, int], nn.Module],
        autoencoder: str | AutoencoderNetwork,
        video_shape: Sequence[int] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        spec = self.open_autoencoder(autoencoder, video_shape)
        self.network = network(spec, self.condition_dim)
