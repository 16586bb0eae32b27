"""The third stage: a light diffusion model learns the motion of a content frame."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from cmd_lightning.components.diffusion_stage import CleanLatents, DiffusionStage
from cmd_lightning.diffusion.sampling import Denoiser, given_content
from cmd_lightning.errors import InputError
from cmd_lightning.latent_space import content_row
from cmd_lightning.networks import LatentSpec, MotionModel
from cmd_lightning.networks.contracts import AutoencoderNetwork
from cmd_lightning.pipeline import CMDPipeline


class MotionDiffusion(DiffusionStage):
    """Trains a motion model on the normalised motion latents, given the clean content frame (paper equation 8).

    Args:
        network: Creates the motion model from the latents' shapes and the number of condition channels.
        autoencoder: Checkpoint of the autoencoder stage, a model (zoo name or exported folder) that has one, or the
            trained network itself.
        content_noise: Largest standard deviation of the noise that training adds to the content frame, so that the
            motion model tolerates errors of generated frames (Ho et al., arXiv 2106.15282); sampled per clip, from 0.
        **kwargs: Arguments of `DiffusionStage`.

    Raises:
        InputError: The noise is less than 0.

    Examples:
        The motion latents of clips, which it learns, each with its content frame:

        >>> import torch
        >>> from cmd_lightning.components import MotionDiffusion
        >>> from cmd_lightning.zoo.autoencoders.cmd import CMDAutoencoder
        >>> from cmd_lightning.zoo.motion.dit import MotionDiT
        >>> stage = MotionDiffusion(
        ...     network=lambda spec, condition_dim: MotionDiT(spec, condition_dim, width=16, depth=1, heads=2),
        ...     autoencoder=CMDAutoencoder(width=16, depth=1, heads=2, head_dim=8),
        ...     video_shape=(3, 4, 8, 8),
        ... ).eval()
        >>> motion, content = stage.clean_latents({"video": torch.rand(2, 3, 4, 8, 8)})
        >>> motion.shape, content.shape
        (torch.Size([2, 8, 4, 8]), torch.Size([2, 3, 8, 8]))
        >>> stage.predict(motion, torch.tensor([0, 999]), condition=None, content=content).shape
        torch.Size([2, 8, 4, 8])
    """

    stage = "motion"
    network: MotionModel

    def __init__(
        self,
        network: Callable[[LatentSpec, int], MotionModel],
        autoencoder: str | AutoencoderNetwork,
        content_noise: float = 0.0,
        **kwargs: Any,
    ) -> None:
        if content_noise < 0:
            raise InputError(f"model.content_noise {content_noise}: give a standard deviation of 0 or more")
        super().__init__(autoencoder, **kwargs)
        self.network = network(self.latent_spec, self.condition_dim)
        self.content_noise = content_noise

    def arguments(self) -> dict[str, Any]:
        return super().arguments() | {"content_noise": self.content_noise}

    @property
    def latent_scale(self) -> Tensor:
        return 1 / self.autoencoder.motion_std.view(-1, 1, 1)

    def setup(self, stage: str) -> None:
        """Rejects still images, which have no motion."""
        super().setup(stage)
        if getattr(self.trainer.datamodule, "stills", False):  # type: ignore[attr-defined]  # set by Lightning
            raise InputError("data.images still: the motion stage needs video; leave it out, and give shards of video")

    @torch.no_grad()
    def clean_latents(self, batch: dict[str, Any]) -> CleanLatents:
        content, motion = self.encoded(batch)
        return CleanLatents(motion, content)

    def training_latents(self, batch: dict[str, Any]) -> CleanLatents:
        motion, content = super().training_latents(batch)
        if self.content_noise and content is not None:
            noise = self.normal(batch, "content noise")(tuple(content.shape[1:])).to(content)
            content = content + self.content_noise * self.uniform(batch, "content level").view(-1, 1, 1, 1) * noise
        return CleanLatents(motion, content)

    def denoiser(self, network: Any, content: Tensor | None = None) -> Denoiser:
        assert content is not None  # from `clean_latents`
        return given_content(network, content)

    @torch.no_grad()
    def preview(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        content, motion = self.encoded(batch)
        pipeline = CMDPipeline(
            self.autoencoder,
            motion_model=self.network,
            motion_scheduler=self.sampler(),
            motion_text_encoder=self.condition_encoder,
            video_shape=self.video_shape,
        )
        pipeline.set_progress_bar_config(disable=True)
        sampled = pipeline.generate_motion(content, self.values(batch), range(len(content)), **self.sampling_defaults)
        true = self.autoencoder.denormalize_motion(motion)
        decode = self.latent_space.decode
        return {
            **content_row(self.latent_space, content, self.video_shape[0]),
            "reconstruction": decode(self.autoencoder.decode(content, true)),
            "sampled motion": decode(self.autoencoder.decode(content, sampled)),
        }
