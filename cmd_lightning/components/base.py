"""The base of all trainable components: batches to tensors, optimiser, random numbers, self-describing checkpoints."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, ClassVar, NoReturn, Self

import torch
from lightning.pytorch import Callback
from lightning.pytorch.utilities.rank_zero import rank_zero_only, rank_zero_warn
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from cmd_lightning import compat
from cmd_lightning.callbacks.skip_non_finite import SkipNonFinite
from cmd_lightning.components import draws
from cmd_lightning.components.batches import DEFAULT_FPS, ClipRange, complete
from cmd_lightning.components.checkpoints import KEY, Stage, load_stage, located
from cmd_lightning.components.frozen import FrozenParts
from cmd_lightning.components.resumed_options import apply_changes, options_of
from cmd_lightning.components.schedules import WarmupSchedule
from cmd_lightning.components.sharding import shard
from cmd_lightning.errors import InputError, reason
from cmd_lightning.latent_space import LatentSpace, Pixels, shape_text
from cmd_lightning.networks.classes import describe
from cmd_lightning.networks.compiling import compile_network
from cmd_lightning.progress import notify

OptimizerFactory = Callable[[Iterable[nn.Parameter]], Optimizer]
ScheduleFactory = Callable[[Optimizer], LRScheduler]


class Component(FrozenParts):
    """A stage of CMD, or another model of videos, that is trained on batches of a DataModule.

    Args:
        optimizer: Creates the optimiser from the trainable weights.
        schedule: Creates the learning-rate schedule, which is stepped after every optimiser step.
        gradient_checkpointing: Whether the network recomputes its activations in the backward pass, to save memory.
        compile: Whether to compile the network with torch.compile; or the arguments of torch.compile.

    Attributes:
        lr: Learning rate that replaces the optimiser's; None unless `Tuner.lr_find` or the user sets it.
    """

    stage: ClassVar[str]
    network: Any
    latent_space: LatentSpace
    trained_on: str | None = None  # fingerprint of the autoencoder whose latents it learns

    def __init__(
        self,
        optimizer: OptimizerFactory,
        schedule: ScheduleFactory = WarmupSchedule,
        gradient_checkpointing: bool = False,
        compile: bool | dict[str, Any] = False,
    ) -> None:
        super().__init__()
        self.optimizer_factory, self.schedule_factory = optimizer, schedule
        self.gradient_checkpointing, self.compile_options = gradient_checkpointing, compile
        self.keep_frozen(latent_space=Pixels())
        self.lr: float | None = None
        self.clip_range, self.has_keys = ClipRange(), True
        self._configured = False
        self._wanted: list[list[dict[str, Any]]] = []  # the options of each optimiser, before a checkpoint is restored
        self.video_shape: tuple[int, int, int, int] | None = None
        self.fps: float | None = None

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]  # Lightning's is the same but for what it returns
        cls,
        checkpoint_path: str | Path,
        map_location: Any = None,
        hparams_file: Any = None,
        strict: bool | None = None,
        weights_only: bool | None = None,
        **kwargs: Any,
    ) -> Self:
        """Load the component from a checkpoint that `fit` wrote, with averaged weights if it has them.

        Checkpoints contain all arguments, so none is needed; no code from the checkpoint is run.

        Args:
            checkpoint_path: The checkpoint.
            map_location: Device to move the component to.
            hparams_file: Not used; like `strict` and `weights_only`, an argument of Lightning's method.
            strict: Not used: no weight may be missing.
            weights_only: Not used: checkpoints are always loaded with weights only.
            **kwargs: Arguments of the component that replace those of the training. Checkpoints do not record the
                optimiser and its schedule: give them here, or the defaults are used.

        Raises:
            InputError: As for `load_stage`.
        """
        stage = load_stage(checkpoint_path, cls.stage, "checkpoint_path")
        component = cls(**stage.arguments | cls.arguments_of(stage) | kwargs)
        component.adopt(stage, str(checkpoint_path))
        return component if map_location is None else component.to(map_location)

    @classmethod
    @abstractmethod
    def arguments_of(cls, stage: Stage) -> dict[str, Any]:
        """The arguments of the component that follow from the parts of a trained stage."""

    def adopt(self, stage: Stage, source: str) -> None:
        """Takes shape and frame rate from a trained stage, and makes its parts trainable, as after training."""
        self.video_shape, self.fps = stage.video_shape or None, stage.fps
        for part in self.parts().values():
            if isinstance(part, nn.Module) and part not in self._frozen.values():
                part.requires_grad_(True).train()

    def arguments(self) -> dict[str, Any]:
        """Other arguments that `load_from_checkpoint` needs, besides the parts, as plain data."""
        return {}

    @abstractmethod
    def parts(self) -> dict[str, Any]:
        """The networks and schedulers that make up the stage, by attribute name."""

    @abstractmethod
    def preview(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Videos `(B, C, T, H, W)` or images `(B, C, H, W)` in [-1, 1] that show results of the model, by name."""

    def configure_callbacks(self) -> list[Callback]:
        """A guard against numerical faults, unless the Trainer has one already."""
        callbacks = self.trainer.callbacks  # type: ignore[attr-defined]  # Lightning sets it elsewhere
        given = any(isinstance(callback, SkipNonFinite) for callback in callbacks)
        return [] if given else [SkipNonFinite()]

    def configure_optimizers(self) -> Any:
        """The optimiser over the trainable weights, with its schedule."""
        trained = [p for p in self.parameters() if p.requires_grad]
        try:
            optimizer = self.optimizer_factory(trained)
        except (TypeError, ValueError) as error:
            raise InputError(f"model.optimizer: {reason(error)}; give other values") from error
        if self.lr is not None:
            for group in optimizer.param_groups:
                group["lr"] = self.lr
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": self.schedule_factory(optimizer), "interval": "step"},
        }

    def configure_model(self) -> None:
        """Enables gradient checkpointing and compilation, and shards the weights if the strategy requires it."""
        if self._configured:
            return
        self._configured = True
        if self.gradient_checkpointing:
            if not compat.offers_checkpointing(self.network):
                kind = type(self.network).__name__
                raise InputError(f"model.gradient_checkpointing true: {kind} does not offer it; leave it out")
            self.network.enable_gradient_checkpointing()
        if self.compile_options:
            compile_network(self.network, self.compile_options, by_block=self.device_mesh is not None)
        if self.device_mesh is not None:
            shard(self, self.device_mesh)

    def video(self, batch: dict[str, Any]) -> Tensor:
        """The batch's videos in the autoencoder's space, `(B, C, T, H, W)`; from their moments, if it has these.

        Of a posterior, training takes a sample, with noise that depends on each clip's key; otherwise its mean is used.
        """
        space = self.latent_space
        if "moments" in batch:
            self.check_origin(batch)
            moments = batch["moments"].to(self.dtype)
        elif "video" in batch:
            pixels = self.clip_range.pixels(batch["video"], self.dtype)
            self.check_clip(*pixels.shape[2:])
            moments = space.moments(pixels)
        else:
            raise InputError(
                f"data: these shards contain no videos and no moments, which the {self.stage} stage needs; "
                "encode some with `shards encode --vae`, or train on videos"
            )
        latent = space.latent(moments, self.normal(batch, "posterior") if self.training else None)
        channels, frames, height, width = latent.shape[1:]
        shape = (channels, frames, height, width)
        if self.video_shape is None:
            self.check_shape(shape)
            self.video_shape = shape
        if self.video_shape != shape:
            self.refuse(self.video_shape, shape_text(shape, space.factor))
        if self.fps is None and self.training:  # validation clips may have another rate
            if "fps" not in batch:
                rank_zero_warn(
                    f"data: batches have no `fps`, so generated videos get {DEFAULT_FPS:g} frames per second"
                )
            self.fps = float(torch.as_tensor(batch.get("fps", DEFAULT_FPS), dtype=torch.float32).median())
        return latent

    def check_clip(self, frames: int, height: int, width: int) -> None:
        """Rejects clips of another length or size in pixels than the model was built for, before they are encoded."""
        if self.video_shape is not None:
            factor = self.latent_space.factor
            _, own_frames, *sides = self.video_shape
            if (frames, height, width) != (own_frames, *(side * factor for side in sides)):
                self.refuse(self.video_shape, f"{frames} frames, {height}x{width}")

    def refuse(self, video_shape: tuple[int, ...], clip: str) -> NoReturn:
        """Raises the InputError for a clip of another shape than the model's `video_shape`."""
        own = shape_text(video_shape, self.latent_space.factor)
        raise InputError(
            f"data: videos of {clip}, but the {self.stage} stage is built for {own}; set data.num_frames and data.size "
            "to these, or train it from scratch"
        )

    def check_shape(self, video_shape: tuple[int, int, int, int]) -> None:
        """Raises an InputError for a video shape that the networks do not support, before the first batch is used."""

    def on_fit_start(self) -> None:
        """Reads the seed of the run; allows gradient clipping with fused optimisers.

        Not with a gradient scaler, as gradients are then scaled until the step.
        """
        draws.begin()
        self._wanted = [options_of(optimizer) for optimizer in self.trainer.optimizers]
        scaled = getattr(self.trainer.precision_plugin, "scaler", None) is not None
        for optimizer in self.trainer.optimizers:
            if not compat.is_fused(optimizer):
                continue
            if not scaled:
                compat.allow_clipping(optimizer)
            elif self.trainer.gradient_clip_val:
                raise InputError(
                    f"trainer.precision {self.trainer.precision}: gradients of a fused optimiser cannot be clipped; "
                    "set model.optimizer.fused false, trainer.gradient_clip_val null, or precision bf16-mixed"
                )

    def on_train_start(self) -> None:
        """Applies options of the optimiser that changed since the checkpoint, and reports them."""
        if not self.trainer.ckpt_path:
            return
        for optimizer, wanted in zip(self.trainer.optimizers, self._wanted, strict=True):
            configs = self.trainer.lr_scheduler_configs
            schedules = [made.scheduler for made in configs if made.scheduler.optimizer is optimizer]
            for change in apply_changes(optimizer, wanted, schedules):
                rank_zero_only(notify)(change)

    def log_mean(self, name: str, value: Tensor, clips: int, prog_bar: bool = False) -> None:
        """Log the mean over a validation batch; Lightning averages it over the clips of all processes."""
        # Lightning (2.6) divides the number of clips of all processes by the number of processes, and rounds it down.
        processes = torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1
        self.log(name, value, prog_bar=prog_bar, batch_size=clips * processes, sync_dist=True)

    def normal(self, batch: dict[str, Any], name: str) -> Callable[[tuple[int, ...]], Tensor]:
        """A function from a sample's shape to standard normal values `(B, *shape)` that depend on key and `name`."""
        keys, time = batch["key"], self._time(batch)
        return lambda shape: draws.normal(shape, name, keys, time).to(self.device)

    def uniform(self, batch: dict[str, Any], name: str) -> Tensor:
        """A random value in [0, 1) for each sample of a batch that depends on its key and `name`, `(B,)`."""
        return draws.uniform(name, batch["key"], self._time(batch)).to(self.device)

    def _time(self, batch: dict[str, Any]) -> int | str:
        """The epoch of the data or, if batches lack it, the step, so that a clip never gets the same noise twice."""
        return batch.get("epoch", f"step {self.global_step}")

    def check_origin(self, batch: dict[str, Any]) -> None:
        """Rejects a batch of latent shards that another latent space or another autoencoder encoded."""
        ours = {part: own for part, own in self.origin().items() if part == "latent_space" or "content" in batch}
        for made_by in batch["made_by"]:
            for part, own in ours.items():
                if made_by.get(part) != own:
                    raise InputError(
                        f"data: these latents are of another {part.replace('_', ' ')} ({made_by.get(part)}) than the "
                        f"{self.stage} stage's ({own}); encode them again with `shards encode`, or give that one"
                    )

    def origin(self) -> dict[str, str]:
        """The fingerprint of each part that computes the latents which this stage learns."""
        autoencoder = {"autoencoder": self.trained_on} if self.trained_on else {}
        return {"latent_space": self._frozen["latent_space"].fingerprint} | autoencoder

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Completes the batch, and sets the seed, so that a resumed run repeats the random numbers of a whole one."""
        compat.count_resumed_epoch(self.trainer)
        self.has_keys = complete(batch, "train", self.trainer.global_rank, batch_idx)
        # Noise of components depends on the samples' keys; this seed is for random layers such as dropout.
        draws.seed_step("train", self.global_step, batch_idx, self.trainer.global_rank)

    def on_validation_batch_start(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Completes the batch."""
        complete(batch, "validate", self.trainer.global_rank, batch_idx)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds the description that `load_stage` reads."""
        parts = {name: describe(part) for name, part in self.parts().items()}
        frozen = parts.keys() & self._frozen.keys()
        checkpoint[KEY] = {
            "stage": self.stage,
            "parts": parts | {name: located(parts[name]) for name in frozen},
            "frozen": {name: self._frozen[name].fingerprint for name in frozen},
            "video_shape": list(self.video_shape or ()),
            "fps": self.fps,
            "arguments": self.arguments(),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Rejects the checkpoint of another stage, and takes shape and frame rate of the data from it."""
        about = checkpoint.get(KEY)
        if about is None or about["stage"] != self.stage:
            held = "something else" if about is None else f"the {about['stage']} stage"
            raise InputError(f"`ckpt_path`: this checkpoint holds {held}; give one of the {self.stage} stage")
        kept, own = about["parts"]["network"], describe(self.network)
        for name in ("class_path", *own["init_args"].keys() & kept["init_args"].keys()):
            theirs, ours = (made[name] if name in made else made["init_args"][name] for made in (kept, own))
            if theirs != ours:
                raise InputError(
                    f"`ckpt_path`: its network has {name} {theirs}, this run's has {ours}; set model.network to that, "
                    "or train from scratch without `ckpt_path`"
                )
        self.video_shape, self.fps = tuple(about["video_shape"]) or None, about["fps"]
