"""Diffusion of whole videos, without content frame and motion latent: the component of the baselines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from cmd_lightning.components.checkpoints import Stage
from cmd_lightning.components.diffusion_stage import CleanLatents, DiffusionStage
from cmd_lightning.components.video_model import VideoModel
from cmd_lightning.conditioning import Values, count_videos, encode_condition
from cmd_lightning.diffusion.sampling import (
    Denoiser,
    Guided,
    PerStage,
    chosen,
    computing_in,
    generators_of,
    sample,
    seeded_noise,
)
from cmd_lightning.errors import InputError
from cmd_lightning.latent_space import LatentSpace, from_uint8, to_uint8
from cmd_lightning.networks import LatentSpec, VideoDenoiser
from cmd_lightning.networks.contracts import AutoencoderNetwork


class VideoDiffusion(DiffusionStage, VideoModel):
    """Trains a model of whole videos, and samples from it: baselines such as LVDM, ModelScope and PVDM.

    It denoises videos in the latent space, `(B, C, T, H, W)`; or, with `autoencoder`, the latents of that, packed as
    `(B, C, N)`: all points of the content plane, then all points of the normalised motion.

    Args:
        network: Creates the denoiser from the shape `(C, T, H, W)` of a latent, or with `autoencoder` from the shapes
            of its latents, and the number of condition channels.
        latent_space: The space of the videos, such as `FrameLatents` of Stable Diffusion's VAE; pixels by default. A
            checkpoint of an autoencoder includes its own.
        autoencoder: Checkpoint of the autoencoder stage, a model (zoo name or exported folder) that has one, or the
            trained network itself; motion and content plane must have the same number of channels.
        video_shape: `(C, T, H, W)` of the videos in the latent space; not needed with a checkpoint of an autoencoder.
        steps: Denoising steps of `test`, `predict` and `sample`, by default 50.
        guidance: Guidance scale of `test`, `predict` and `sample`, by default 4; 1 disables it.
        metrics: Metrics of `test`, by their names in `MetricSuite`: distances between samples and test clips, `is` and
            CLIP similarities of samples.
        preset: How clips are prepared for the I3D: "stylegan-v" by default, see `Preparation`.
        **kwargs: Arguments of `DiffusionStage`.

    Examples:
        Two videos from a small LVDM, before training:

        >>> from cmd_lightning.components import VideoDiffusion
        >>> from cmd_lightning.zoo.baselines.lvdm import LVDM
        >>> model = VideoDiffusion(
        ...     network=lambda latent, condition_dim: LVDM(latent, condition_dim, 8, (1, 2), 1, 2),
        ...     video_shape=(3, 4, 8, 8),
        ... ).eval()
        >>> video = model.sample(2, seeds=[0, 1], steps=2)
        >>> video.shape, video.dtype
        (torch.Size([2, 3, 4, 8, 8]), torch.uint8)
    """

    stage = "video"
    carries = True  # so that it samples without other files

    def __init__(
        self,
        network: Callable[[tuple[int, int, int, int] | LatentSpec, int], VideoDenoiser],
        latent_space: LatentSpace | None = None,
        autoencoder: str | AutoencoderNetwork | None = None,
        video_shape: Sequence[int] | None = None,
        steps: int | None = None,
        guidance: float | None = None,
        metrics: Sequence[str] = (),
        preset: str | None = None,
        **kwargs: Any,
    ) -> None:
        if latent_space is not None and isinstance(autoencoder, str):
            raise InputError("model.latent_space: the autoencoder's checkpoint includes its own; leave it out")
        super().__init__(autoencoder, video_shape, **kwargs)
        self.keep_frozen(latent_space=latent_space)
        self.latent: tuple[int, int, int, int] | LatentSpec
        self.latent = self.video_shape if self.trained_on is None else self.latent_spec
        if isinstance(self.latent, LatentSpec) and self.latent.content[0] != self.latent.motion[0]:
            raise InputError(
                f"model.autoencoder: its content plane has {self.latent.content[0]} channels and its motion "
                f"{self.latent.motion[0]}, but they are denoised together; give one with equal numbers, such as "
                "TriplaneAutoencoder"
            )
        self.latent_shape: tuple[int, ...] = self.latent.packed if isinstance(self.latent, LatentSpec) else self.latent
        self.network = network(self.latent, self.condition_dim)
        self.steps, self.guidance, self.metrics, self.preset = steps, guidance, metrics, preset
        self.averaged = False
        self.scheduler = self.objective.scheduler()

    @classmethod
    def arguments_of(cls, stage: Stage) -> dict[str, Any]:
        return super().arguments_of(stage) | {"latent_space": stage.latent_space}

    def arguments(self) -> dict[str, Any]:
        own = {"steps": self.steps, "guidance": self.guidance, "metrics": list(self.metrics), "preset": self.preset}
        return {name: value for name, value in super().arguments().items() if name != "autoencoder"} | own

    def adopt(self, stage: Stage, source: str) -> None:
        super().adopt(stage, source)
        self.scheduler, self.sources, self.averaged = stage.parts["scheduler"], [source], stage.averaged

    @torch.no_grad()
    def clean_latents(self, batch: dict[str, Any]) -> CleanLatents:
        return CleanLatents(self.video(batch) if self.trained_on is None else LatentSpec.pack(*self.encoded(batch)))

    def denoiser(self, network: Any, content: Tensor | None = None) -> Denoiser:
        return network

    def parts(self) -> dict[str, Any]:
        return super().parts() | {"scheduler": self.scheduler, "latent_space": self._frozen["latent_space"]}

    @torch.no_grad()
    def sample(
        self, condition: Values, *, seeds: Sequence[int], steps: PerStage = None, guidance: PerStage = None
    ) -> Tensor:
        count_videos(condition, [self.condition_encoder], seeds)
        number, scale = self.sampling(steps, guidance)
        conditions = encode_condition(self.condition_encoder, condition, scale, "video")
        generators = generators_of(seeds, stream=0)
        noise = seeded_noise(self.latent_shape, generators).to(self.device)
        predict = Guided(computing_in(self.network.dtype, self.predict), *conditions, scale)
        latent = sample(predict, self.scheduler, noise, number, generators)
        return to_uint8(self.decode(latent))

    def sampling(self, steps: PerStage = None, guidance: PerStage = None) -> tuple[int, float]:
        """Denoising steps and guidance scale: as given, otherwise the component's, otherwise 50 and 4."""
        steps, guidance = self.steps if steps is None else steps, self.guidance if guidance is None else guidance
        return chosen("video", steps, guidance, {"video": 50}, {"video": 4.0}, self.scheduler)

    def decode(self, latent: Tensor) -> Tensor:
        """The video `(B, 3, T, H, W)` in [-1, 1] of a denoised latent."""
        if isinstance(self.latent, LatentSpec):
            content, motion = self.latent.unpack(latent)
            motion, dtype = self.autoencoder.denormalize_motion(motion), self.autoencoder.dtype
            latent = self.autoencoder.decode(content.to(dtype), motion.to(dtype))
        return self.latent_space.decode(latent)

    @torch.no_grad()
    def preview(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        latent, _ = self.clean_latents(batch)
        rows = {"original": self.clip_range.pixels(batch["video"])} if "video" in batch else {}
        if not rows or self.trained_on is not None:
            rows["reconstruction"] = self.decode(latent)
        return rows | {"sample": from_uint8(self.sample(self.values(batch), seeds=range(len(latent))))}

    def clips(self, batch: dict[str, Any]) -> Tensor:
        video = super().clips(batch)
        self.check_clip(*video.shape[2:])
        return video

    def on_test_start(self) -> None:
        self.check_trained("test")
        if not self.metrics:
            raise InputError("model.metrics: none is given, so there is nothing to test; give one, as frechet:shapes")
        super().on_test_start()

    def made_with(self) -> dict[str, Any]:
        steps, scale = self.sampling()
        callbacks = self.trainer.callbacks  # type: ignore[attr-defined]  # Lightning sets it elsewhere
        swapped = any(getattr(callback, "swapped", False) for callback in callbacks)
        sampling = {"video": {"steps": steps, "guidance": scale}}
        return {"averaged_weights": self.averaged or swapped, "sampling": sampling}

    def on_predict_start(self) -> None:
        self.check_trained("predict")

    def check_trained(self, verb: str) -> None:
        """Raises an InputError if the network was never trained."""
        if not self.sources:
            raise InputError(f"`ckpt_path`: {verb} needs trained weights; add `ckpt_path` last, or another checkpoint")

    def on_train_end(self) -> None:
        """Records that the weights were trained here and are not from a file."""
        self.sources = [f"trained in this process, {self.global_step} steps"]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        self.sources = [str(self.trainer.ckpt_path)]
