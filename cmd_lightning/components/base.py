"""What all trainable components share: batches to tensors, optimiser, draws by step, self-describing checkpoints."""

from __future__ import annotations

import hashlib
import os
from abc import abstractmethod
from collections.abc import Callable, Iterable
from typing import Any, ClassVar

import torch
from lightning import LightningModule
from lightning.pytorch import Callback
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from cmd_lightning.callbacks.skip_non_finite import SkipNonFinite
from cmd_lightning.components.checkpoints import KEY
from cmd_lightning.components.schedules import WarmupSchedule
from cmd_lightning.errors import InputError
from cmd_lightning.latent_space import LatentSpace, from_uint8
from cmd_lightning.networks.classes import describe

OptimizerFactory = Callable[[Iterable[nn.Parameter]], Optimizer]
ScheduleFactory = Callable[[Optimizer], LRScheduler]


class Component(LightningModule):
    """A stage of CMD that is trained on batches of a DataModule.

    Args:
        optimizer: Makes the optimiser from the trainable weights.
        schedule: Makes the learning-rate schedule, stepped with every optimiser step.
    """

    stage: ClassVar[str]

    def __init__(
        self,
        optimizer: OptimizerFactory,
        schedule: ScheduleFactory = WarmupSchedule,
    ) -> None:
        super().__init__()
        self.optimizer_factory, self.schedule_factory = optimizer, schedule
        self.latent_space = LatentSpace()
        self.video_shape: tuple[int, int, int, int] | None = None
        self.fps: float | None = None

    @abstractmethod
    def parts(self) -> dict[str, Any]:
        """The networks and schedulers that make up the stage, by attribute name."""

    @abstractmethod
    def preview(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """What a look at the model shows: videos `(B, C, T, H, W)` or pictures `(B, C, H, W)` in [-1, 1], by name."""

    def configure_callbacks(self) -> list[Callback]:
        """A guard against numerical faults, unless the Trainer has one already."""
        given = any(isinstance(callback, SkipNonFinite) for callback in self.trainer.callbacks)
        return [] if given else [SkipNonFinite()]

    def configure_optimizers(self) -> dict[str, Any]:
        """The optimiser over the trainable weights, with its schedule."""
        optimizer = self.optimizer_factory([p for p in self.parameters() if p.requires_grad])
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": self.schedule_factory(optimizer), "interval": "step"},
        }

    def video(self, batch: dict[str, Any]) -> Tensor:
        """The batch's videos in the autoencoder's space, `(B, C, T, H, W)`.

        Raises:
            InputError: They are not of the shape that the model was built for.
        """
        latent = self.latent_space.encode(from_uint8(batch["video"], self.dtype))
        shape = tuple(latent.shape[1:])
        if self.video_shape is None:
            self.check_shape(shape)
            self.video_shape = shape
        if self.video_shape != shape:
            raise InputError(
                f"data: videos of shape {shape_text(shape)}, but the {self.stage} stage is built for "
                f"{shape_text(self.video_shape)}; set data.num_frames and data.size to these, or train it anew"
            )
        if self.fps is None:
            self.fps = float(batch["fps"][0])
        return latent

    def check_shape(self, video_shape: tuple[int, int, int, int]) -> None:
        """Raises InputError for a video shape that the networks cannot take; before the first batch is used."""

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Seeds the draws of this step, so that a resumed run repeats those of an uninterrupted one."""
        epochs = self.trainer.fit_loop.epoch_progress
        if epochs.current.ready == epochs.current.completed:
            # Resumed at the end of an epoch, Lightning (2.6) begins the next one without counting it: a checkpoint of
            # that one would say that it is over, and its rest be left out when a fit goes on from there.
            epochs.increment_ready()
            epochs.increment_started()
        seed_draws("train", self.global_step, batch_idx, self.trainer.global_rank)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds the description that `load_stage` reads."""
        checkpoint[KEY] = {
            "stage": self.stage,
            "parts": {name: describe(part) for name, part in self.parts().items()},
            "video_shape": list(self.video_shape or ()),
            "fps": self.fps,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuses the checkpoint of another stage, and takes over what the data looked like."""
        about = checkpoint.get(KEY)
        if about is None or about["stage"] != self.stage:
            held = "something else" if about is None else f"the {about['stage']} stage"
            raise InputError(f"ckpt_path: this checkpoint holds {held}; give one of the {self.stage} stage")
        self.video_shape, self.fps = tuple(about["video_shape"]) or None, about["fps"]


def seed_draws(*position: object) -> None:
    """Seeds torch's generators by the run's seed and a position in it."""
    text = "/".join(map(str, (os.environ.get("PL_GLOBAL_SEED", 0), *position)))
    torch.manual_seed(int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big"))


def shape_text(shape: tuple[int, ...]) -> str:
    """A video shape for people: channels, frames, height x width."""
    channels, frames, height, width = shape
    return f"{channels} channels, {frames} frames, {height}x{width}"
