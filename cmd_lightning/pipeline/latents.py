"""Videos to latents and back for `CMDPipeline`: content frames and motion latents, through the latent space."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from cmd_lightning import compat
from cmd_lightning.errors import InputError
from cmd_lightning.latent_space import FrameLatents, LatentSpace, Pixels, shape_text
from cmd_lightning.networks import AutoencoderNetwork, LatentSpec


class Latents:
    """The part of `CMDPipeline` that encodes and decodes."""

    config: Any
    autoencoder: AutoencoderNetwork
    vae: Any
    _frame_decoder: FrameLatents | None = None
    _latent_space: LatentSpace | None = None

    @property
    def latent_space(self) -> LatentSpace:
        """The space of the autoencoder: that of `vae`, on its device."""
        if self._latent_space is None or self._latent_space.vae is not self.vae:
            self._latent_space = Pixels() if self.vae is None else FrameLatents(self.vae)
        return self._latent_space

    @property
    def frames(self) -> LatentSpace:
        """The decoder of frames: the latent space, or its replacement from `use_frame_decoder`."""
        return self._frame_decoder or self.latent_space

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the videos in pixels."""
        height, width = self.config.video_shape[2:]
        return height * self.latent_space.factor, width * self.latent_space.factor

    @property
    def latent_spec(self) -> LatentSpec:
        """The shapes of one video's content frame and motion latent."""
        return self.autoencoder.latent_spec(tuple(self.config.video_shape))

    @torch.no_grad()
    def decode(self, content: Tensor, motion: Tensor) -> Tensor:
        """The video `(B, C, T, H, W)` in [-1, 1] of content frames and motion latents."""
        place = compat.execution_device(self.autoencoder), self.autoencoder.dtype
        return self.frames.decode(self.autoencoder.decode(content.to(*place), motion.to(*place)))

    @torch.no_grad()
    def encode(self, video: Tensor) -> tuple[Tensor, Tensor]:
        """Content frames and motion latents of videos `(B, 3, T, H, W)` in [-1, 1].

        Raises:
            InputError: They are of another size or length than the model's.
        """
        space = self.latent_space
        latent = space.encode(video.to(compat.execution_device(self.autoencoder), self.autoencoder.dtype))
        if tuple(latent.shape[1:]) != (expected := tuple(self.config.video_shape)):
            raise InputError(
                f"videos of {shape_text(tuple(latent.shape[1:]), space.factor)}, the model generates "
                f"{shape_text(expected, space.factor)}; give such clips; configs set data.num_frames and data.size"
            )
        return self.autoencoder.encode(latent)

    def content_of(self, images: Tensor) -> Tensor:
        """The content frames `(B, C, H, W)` of images `(B, 3, H, W)` in [-1, 1]: those of clips that stand still."""
        return self.encode(images[:, :, None].repeat(1, 1, self.config.video_shape[1], 1, 1))[0]
