"""The trained autoencoder whose latents a diffusion stage learns; it stays as it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from cmd_lightning.components.checkpoints import load_stage
from cmd_lightning.errors import InputError
from cmd_lightning.latent_space import LatentSpace
from cmd_lightning.networks import AutoencoderNetwork, LatentSpec
from cmd_lightning.provenance import fingerprint


@dataclass(frozen=True)
class FrozenAutoencoder:
    """A trained autoencoder, with what a stage that learns its latents must know.

    Attributes:
        network: Splits a video into content frame and motion latent, and joins them.
        latent_space: The space that it works in; None if only the network was given.
        video_shape: `(C, T, H, W)` of the videos in that space.
        fps: Frames per second of the videos that it was trained on, where known.
        spec: Shapes of its latents for such videos.
        fingerprint: Of its weights.
    """

    network: AutoencoderNetwork
    latent_space: LatentSpace | None
    video_shape: tuple[int, int, int, int]
    fps: float | None
    spec: LatentSpec
    fingerprint: str

    @classmethod
    def open(cls, autoencoder: str | AutoencoderNetwork, video_shape: Sequence[int] | None = None) -> FrozenAutoencoder:
        """Open an autoencoder.

        Args:
            autoencoder: Checkpoint of the autoencoder stage, or the trained network itself.
            video_shape: `(C, T, H, W)` in the latent space; by default what the autoencoder was trained on.

        Raises:
            InputError: It cannot be opened, takes no such videos, or does not say what it was trained on.
        """
        if isinstance(autoencoder, nn.Module):
            network, latent_space, fps = autoencoder, None, None
        else:
            trained = load_stage(autoencoder, "autoencoder", "model.autoencoder")
            network, latent_space, fps = trained.parts["network"], trained.latent_space, trained.fps
            video_shape = video_shape or trained.video_shape
        if video_shape is None:
            raise InputError("model.video_shape: needed with an autoencoder that is not a checkpoint; give C, T, H, W")
        channels, frames, height, width = video_shape
        shape = (channels, frames, height, width)
        return cls(network, latent_space, shape, fps, network.latent_spec(shape), fingerprint(network.state_dict()))
