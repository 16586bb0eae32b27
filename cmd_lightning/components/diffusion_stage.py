"""The base of all diffusion stages: a training step, the condition and its dropout, and validation by timestep."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.optim import Adam

from cmd_lightning.components.base import Component, OptimizerFactory
from cmd_lightning.components.batches import field_of
from cmd_lightning.components.checkpoints import CARRIED, KEY, Stage, load_stage
from cmd_lightning.components.condition_data import count_classes, stored_condition, warn_of_captions
from cmd_lightning.components.latent_cache import LatentCache
from cmd_lightning.conditioning import ClassEncoder, ConditionEncoder, replace_condition, values_of
from cmd_lightning.diffusion import Diffusion, Objective
from cmd_lightning.diffusion.objectives import objective_of, recorded
from cmd_lightning.diffusion.sampling import Denoiser, Scheduler
from cmd_lightning.errors import InputError
from cmd_lightning.networks import AutoencoderNetwork, Condition, LatentSpec
from cmd_lightning.networks.classes import describe
from cmd_lightning.provenance import fingerprint


class CleanLatents(NamedTuple):
    """The latents of a batch that a stage learns, before noise is added.

    Attributes:
        latent: The latent to add noise to, `(B, ...)`.
        content: The clean content frame `(B, C, H, W)`, for a network that takes it; otherwise None.
    """

    latent: Tensor
    content: Tensor | None = None


def adam(params: Any) -> Adam:
    """The paper's optimiser of both diffusion models (App. B.3)."""
    return Adam(params, lr=1e-4, betas=(0.9, 0.999))


class DiffusionStage(Component):
    """Trains a denoiser of a latent; a subclass builds `network` and defines the latent.

    Args:
        autoencoder: The frozen autoencoder whose latents are learned: checkpoint of its stage, a model (zoo name or
            exported folder) that has one, or the trained network; None for a stage that learns videos in the
            latent space.
        video_shape: `(C, T, H, W)` in the latent space; by default that of the autoencoder's checkpoint.
        condition: Encodes the captions or labels of a batch; None for an unconditional model.
        condition_dropout: Share of samples that are trained with the null condition, for guidance.
        objective: What the network predicts, and the weights of the loss; the paper's noise prediction by default.
        cache_latents: Keep the latents of every training clip in memory, in half precision by its key, so that later
            epochs encode nothing. For data that fit into memory and are the same in every epoch: no random crop, start
            or augmentation.
        noise_floor: Standard deviation of the noise added to the latents to learn, in the autoencoder's units. Give
            that of its decoder's training (see `LatentRegulariser`), so that samples have it too (Unified Latents,
            arXiv 2602.17270); 0 adds none.
        optimizer: Creates the optimiser from the trainable weights; by default the paper's.
        **kwargs: Arguments of `Component`.

    Attributes:
        autoencoder: The frozen autoencoder, on this module's device; not part of its parameters or checkpoints.
        latent_spec: Shapes of the autoencoder's latents; not set without an autoencoder.
        trained_on: Fingerprint of the autoencoder's weights; None without one.
        sampling_defaults: The `steps` and the `guidance` that a model samples this stage with; the pipeline's if empty.
    """

    sampling_defaults: Mapping[str, float] = MappingProxyType({})
    carries: ClassVar[bool] = False  # checkpoints contain the autoencoder even if it is from a file
    autoencoder: AutoencoderNetwork
    video_shape: tuple[int, int, int, int]
    condition_encoder: ConditionEncoder | None
    latent_spec: LatentSpec

    def __init__(
        self,
        autoencoder: str | AutoencoderNetwork | None = None,
        video_shape: Sequence[int] | None = None,
        condition: ConditionEncoder | None = None,
        condition_dropout: float = 0.1,
        objective: Objective | None = None,
        cache_latents: bool = False,
        noise_floor: float = 0.0,
        optimizer: OptimizerFactory = adam,
        **kwargs: Any,
    ) -> None:
        super().__init__(optimizer, **kwargs)
        if not 0 <= condition_dropout <= 1:
            raise InputError(f"model.condition_dropout {condition_dropout}: give a probability from 0 to 1")
        if noise_floor < 0:
            raise InputError(f"model.noise_floor {noise_floor}: give a standard deviation of 0 or more")
        self.noise_floor = noise_floor
        self._captions_reported = False
        self._cache = LatentCache() if cache_latents else None
        if condition is not None and condition.frozen:
            self.keep_frozen(condition_encoder=condition)
        else:
            self.condition_encoder = condition
        self.condition_dim = condition.dim if condition else 0
        self.condition_dropout = condition_dropout
        self.objective = objective or Diffusion()
        self.autoencoder_path: str | None = None
        if isinstance(autoencoder, str | Path):
            self.autoencoder_path = str(Path(autoencoder).resolve() if Path(autoencoder).exists() else autoencoder)
            trained = load_stage(autoencoder, "autoencoder", "model.autoencoder")
            network: AutoencoderNetwork | None = trained.parts["network"]
            video_shape, self.fps = video_shape or trained.video_shape, trained.fps
            self.keep_frozen(latent_space=trained.latent_space)
        else:
            network = autoencoder
        if video_shape is None or len(video_shape) != 4:
            wrong = ": needed, as the network is built for it;" if video_shape is None else f" {list(video_shape)}:"
            raise InputError(
                f"model.video_shape{wrong} give C, T, H, W in the latent space: for pixels [3, data.num_frames, "
                "data.size, data.size]"
            )
        channels, frames, height, width = video_shape
        self.video_shape = (channels, frames, height, width)
        if network is not None:
            self.keep_frozen(autoencoder=network)
            self.latent_spec = network.latent_spec(self.video_shape)
            self.trained_on = fingerprint(network.state_dict())

    @classmethod
    def arguments_of(cls, stage: Stage) -> dict[str, Any]:
        return {
            "network": lambda *_: stage.parts["network"],
            "autoencoder": stage.parts.get("autoencoder") or stage.arguments.get("autoencoder"),
            "video_shape": stage.video_shape,
            "condition": stage.parts.get("condition_encoder"),
            "objective": objective_of(stage.parts["scheduler"], **stage.arguments.get("objective", {})),
        }

    def arguments(self) -> dict[str, Any]:
        """Other arguments that `load_from_checkpoint` needs, such as the path of an autoencoder from a file."""
        path = {} if self.autoencoder_path is None else {"autoencoder": self.autoencoder_path}
        return path | {
            "condition_dropout": self.condition_dropout,
            "objective": recorded(self.objective),
            "cache_latents": self._cache is not None,
            "noise_floor": self.noise_floor,
        }

    def adopt(self, stage: Stage, source: str) -> None:
        super().adopt(stage, source)
        if self.learned_from != stage.trained_on:
            raise InputError(
                f"checkpoint_path {source}: it was trained on another autoencoder than {self.autoencoder_path}; "
                "give `autoencoder`, the one that it was trained on"
            )

    @property
    def latent_scale(self) -> Tensor | float:
        """The factor from the autoencoder's latent to the one that is learned."""
        return 1.0

    def setup(self, stage: str) -> None:
        """Takes the number of classes from the data, if the config leaves it out."""
        super().setup(stage)
        encoder = self.condition_encoder
        if isinstance(encoder, ClassEncoder) and encoder.num_classes is None:
            datamodule = self.trainer.datamodule  # type: ignore[attr-defined]  # set by Lightning
            encoder.set_classes(count_classes(datamodule, self.stage))

    def on_fit_start(self) -> None:
        """Checks some captions of the training data, if the DataModule can give them without reading clips."""
        super().on_fit_start()
        captions = getattr(self.trainer.datamodule, "captions", None)  # type: ignore[attr-defined]  # set by Lightning
        if self.condition_encoder is not None and self.condition_encoder.field == "caption" and captions:
            some = captions()
            if some and not any(some):
                raise InputError(
                    f"data: none of {len(some)} clips has a caption, which the {self.stage} stage is conditioned on; "
                    "pack them with captions, or give model.condition null"
                )
            self.report_captions(some, "checked training clips")

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Checks the captions of the first batch, if `on_fit_start` could not check any."""
        super().on_train_batch_start(batch, batch_idx)
        if not self._captions_reported and isinstance(batch.get("caption"), list | tuple):
            self.report_captions(batch["caption"], "clips of the first batch")

    def report_captions(self, captions: Sequence[str], of: str) -> None:
        """Warns once of captions that are empty or longer than the encoder reads."""
        self._captions_reported, encoder = True, self.condition_encoder
        if encoder is not None and encoder.field == "caption":
            warn_of_captions(captions, of, encoder, self.stage)

    @abstractmethod
    def clean_latents(self, batch: dict[str, Any]) -> CleanLatents:
        """The latents of a batch that this stage learns."""

    @abstractmethod
    def denoiser(self, network: Any, content: Tensor | None = None) -> Denoiser:
        """A network of this stage as a function; `content` is from `CleanLatents`."""

    def predict(
        self, noisy: Tensor, timestep: Tensor, condition: Condition | None, content: Tensor | None = None
    ) -> Tensor:
        """The network's prediction, in the shape of `noisy`; `content` is from `CleanLatents`."""
        return self.denoiser(self.network, content)(noisy, timestep, condition)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """Adds noise to the clean latents at a random timestep, predicts, and compares (paper equations 7 and 8)."""
        clean, content = self.training_latents(batch)
        condition = self.condition(batch)
        if self.condition_encoder is not None and condition is not None and self.condition_dropout:
            dropped = self.uniform(batch, "dropout") < self.condition_dropout
            condition = replace_condition(condition, self.condition_encoder.null(len(clean)), dropped)
        timestep = self.objective.timesteps(self.uniform(batch, "timestep"))
        noise = self.normal(batch, "noise")(tuple(clean.shape[1:])).to(clean)
        noisy = self.objective.corrupt(clean, noise, timestep)
        prediction = self.predict(noisy, timestep, condition, content)
        loss = self.objective.loss(prediction, clean, noise, timestep).mean()
        self.log("train/loss", loss, prog_bar=True, batch_size=len(clean))
        return loss

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """The loss with fixed noise in the middle of each quarter of the timesteps, so that runs can be compared."""
        clean, content = self.clean_latents(batch)
        condition = self.condition(batch)
        generator = torch.Generator().manual_seed(batch_idx)
        losses = []
        for quantile in (0.125, 0.375, 0.625, 0.875):
            timestep = self.objective.timesteps(torch.full((len(clean),), quantile, device=self.device))
            noise = torch.randn(clean.shape, generator=generator).to(clean)
            prediction = self.predict(self.objective.corrupt(clean, noise, timestep), timestep, condition, content)
            losses.append(self.objective.loss(prediction, clean, noise, timestep).mean())
            self.log_mean(f"val/loss_at_{int(timestep[0])}", losses[-1], len(clean))
        self.log_mean("val/loss", torch.stack(losses).mean(), len(clean), prog_bar=True)

    def encoded(self, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """The content frames and normalised motion latents of a batch, from latent shards or by the autoencoder."""
        if "content" not in batch:
            content, motion = self.autoencoder.encode(self.video(batch))
        else:
            self.check_origin(batch)
            content, motion = (batch[name].to(self.dtype) for name in ("content", "motion"))
            spec = self.latent_spec
            if (tuple(content.shape[1:]), tuple(motion.shape[1:])) != (spec.content, spec.motion):
                raise InputError(
                    f"data: latents of shapes {tuple(content.shape[1:])} and {tuple(motion.shape[1:])}, but the "
                    f"{self.stage} stage is built for {spec.content} and {spec.motion}; encode clips with the "
                    "number of frames and the size that the autoencoder was trained on"
                )
        return content, self.autoencoder.normalize_motion(motion)

    def training_latents(self, batch: dict[str, Any]) -> CleanLatents:
        """`clean_latents` for a training step: from the cache and with the noise floor, if these are enabled."""
        clean, content = self._cached_latents(batch)
        if self.noise_floor:
            floor = self.normal(batch, "noise floor")(tuple(clean.shape[1:])).to(clean)
            clean = clean + self.noise_floor * self.latent_scale * floor
        return CleanLatents(clean, content)

    def _cached_latents(self, batch: dict[str, Any]) -> CleanLatents:
        if self._cache is None:
            return self.clean_latents(batch)
        if not self.has_keys:
            raise InputError(
                "model.cache_latents true: batches have no `key` to keep latents by; add it, or give false"
            )
        latents = self._cache.latents(batch["key"], lambda: self.clean_latents(batch))
        return CleanLatents(*(latent.to(self.device, self.dtype) for latent in latents))

    def condition(self, batch: dict[str, Any]) -> Condition | None:
        """The condition of a batch, without dropout; of a frozen encoder, from the shards if they contain it."""
        encoder = self.condition_encoder
        if encoder is None:
            return None
        if not encoder.frozen or not batch.get("text"):
            return encoder(field_of(batch, encoder.field, self.stage))
        stored = stored_condition(batch["text"], encoder, self.stage)
        return stored.map(lambda x: x.to(self.device, self.dtype if x.is_floating_point() else None))

    def values(self, batch: dict[str, Any]) -> list[str] | list[int] | int:
        """The captions, the labels or the number of samples that videos for a batch are generated from."""
        return values_of(batch, self.condition_encoder)

    def sampler(self) -> Scheduler:
        """A new scheduler to sample with."""
        return self.objective.scheduler()

    def parts(self) -> dict[str, Any]:
        parts = {"network": self.network, "scheduler": self.sampler()}
        return parts | ({"condition_encoder": self.condition_encoder} if self.condition_encoder else {})

    @property
    def learned_from(self) -> str | None:
        """The origin of the latents, as stored in checkpoints: the fingerprint of the autoencoder, if there is one."""
        return self.trained_on

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint[KEY] |= {"trained_on": self.learned_from, "sampling": dict(self.sampling_defaults)}
        if self.trained_on is not None and (self.autoencoder_path is None or self.carries):
            checkpoint[KEY]["parts"]["autoencoder"] = describe(self.autoencoder)
            weights = self.autoencoder.state_dict()
            checkpoint[CARRIED] = {f"autoencoder.{name}": weight for name, weight in weights.items()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        if isinstance(self.condition_encoder, ClassEncoder):
            kept = checkpoint[KEY]["parts"].get("condition_encoder", {"init_args": {}})["init_args"].get("num_classes")
            if kept not in (None, own := self.condition_encoder.num_classes):
                raise InputError(
                    f"`ckpt_path`: it was trained on {kept} classes, this run has {own}; give the same data or "
                    f"model.condition.num_classes {kept}, or train from scratch without `ckpt_path`"
                )
        if checkpoint[KEY]["trained_on"] != self.learned_from:
            raise InputError(
                "model.autoencoder: the checkpoint was trained on the latents of another autoencoder; "
                "give that one, or train from scratch without `ckpt_path`"
            )
