"""The second stage: an image diffusion model learns the content frames."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from cmd_lightning.components.diffusion_stage import CleanLatents, DiffusionStage
from cmd_lightning.diffusion.sampling import Denoiser
from cmd_lightning.networks import ContentModel, LatentSpec
from cmd_lightning.networks.contracts import AutoencoderNetwork
from cmd_lightning.networks.stock import predict_content
from cmd_lightning.pipeline import CMDPipeline


class ContentDiffusion(DiffusionStage):
    """Trains a content model: a stock `UNet2DConditionModel` or any `ContentModel` (paper equation 7).

    Args:
        network: Creates the content model from the latents' shapes and the number of condition channels.
        autoencoder: Checkpoint of the autoencoder stage, a model (zoo name or exported folder) that has one, or the
            trained network itself.
        **kwargs: Arguments of `DiffusionStage`.

    Examples:
        The content frames of clips, which it learns, with a small U-Net:

        >>> import torch
        >>> from cmd_lightning.components import ContentDiffusion
        >>> from cmd_lightning.zoo.autoencoders.cmd import CMDAutoencoder
        >>> from cmd_lightning.zoo.content.unet import unet
        >>> stage = ContentDiffusion(
        ...     network=lambda spec, condition_dim: unet(spec, condition_dim, (8, 16), 1, 2),
        ...     autoencoder=CMDAutoencoder(width=16, depth=1, heads=2, head_dim=8),
        ...     video_shape=(3, 4, 8, 8),
        ... ).eval()
        >>> batch = {"video": torch.rand(2, 3, 4, 8, 8)}
        >>> content = stage.clean_latents(batch).latent
        >>> content.shape
        torch.Size([2, 3, 8, 8])
        >>> stage.predict(content, torch.tensor([0, 999]), condition=None).shape
        torch.Size([2, 3, 8, 8])
    """

    stage = "content"

    def __init__(
        self,
        network: Callable[[LatentSpec, int], ContentModel | UNet2DConditionModel],
        autoencoder: str | AutoencoderNetwork,
        **kwargs: Any,
    ) -> None:
        super().__init__(autoencoder, **kwargs)
        self.network = network(self.latent_spec, self.condition_dim)

    @property
    def learned_from(self) -> str | None:
        """The source of key frames, equal for all autoencoders with the same key frame; otherwise the fingerprint."""
        return self.autoencoder.content_source or self.trained_on

    @torch.no_grad()
    def clean_latents(self, batch: dict[str, Any]) -> CleanLatents:
        if "content" in batch:
            return CleanLatents(self.encoded(batch)[0])
        return CleanLatents(self.autoencoder.encode_content(self.video(batch)))

    def denoiser(self, network: Any, content: Tensor | None = None) -> Denoiser:
        return functools.partial(predict_content, network)

    @torch.no_grad()
    def preview(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        content, _ = self.encoded(batch)
        pipeline = CMDPipeline(
            self.autoencoder,
            unet=self.network,
            scheduler=self.sampler(),
            text_encoder=self.condition_encoder,
            video_shape=self.video_shape,
        )
        pipeline.set_progress_bar_config(disable=True)
        samples = pipeline.generate_content(self.values(batch), range(len(content)), **self.sampling_defaults)
        return {"content frame": self.shown(content), "sample": self.shown(samples)}

    def shown(self, content: Tensor) -> Tensor:
        """Content frames as images; feature planes, which are not images, as videos with mean motion."""
        spec = self.latent_spec
        if spec.content[0] == self.video_shape[0]:
            return self.latent_space.decode(content[:, :, None])
        mean = self.autoencoder.denormalize_motion(content.new_zeros(len(content), *spec.motion))
        return self.latent_space.decode(self.autoencoder.decode(content, mean))
