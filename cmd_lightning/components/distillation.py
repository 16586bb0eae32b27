"""Distillation of a trained stage: a student learns to sample in 1 to 8 steps, where its teacher needs 50."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.schedulers.scheduling_flow_match_lcm import FlowMatchLCMScheduler
from diffusers.schedulers.scheduling_lcm import LCMScheduler
from torch import Tensor, nn

from cmd_lightning.components.adapted import AdaptedStage
from cmd_lightning.components.checkpoints import KEY, Stage, is_model, load_stage
from cmd_lightning.components.content import ContentDiffusion
from cmd_lightning.components.motion import MotionDiffusion
from cmd_lightning.diffusion.consistency import (
    Consistency,
    LatentConsistency,
    Predict,
    jump,
    method_of,
    trajectory,
)
from cmd_lightning.diffusion.sampling import Guided, Scheduler
from cmd_lightning.diffusion.solvers import solver
from cmd_lightning.errors import InputError, check_positive
from cmd_lightning.networks import Condition
from cmd_lightning.networks.lora import LoRA
from cmd_lightning.pipeline import GUIDANCE
from cmd_lightning.provenance import fingerprint
from cmd_lightning.stable_diffusion import StableDiffusion
from cmd_lightning.zoo import model_folder

LEVELS = 4
"""Number of noise levels in validation."""


class Distillation(AdaptedStage):
    """Trains a student of a content or motion stage to sample in few steps, with the teacher's guidance built in.

    The student starts with the teacher's weights, latents and condition encoder. Its checkpoint is one of the teacher's
    stage, so `export` combines it with other stages. The exported model samples with diffusers' `LCMScheduler`, or for
    flow matching `FlowMatchLCMScheduler`, in `steps` steps without guidance.

    Args:
        teacher: Checkpoint of the stage, or a model (zoo name or exported folder) that has it.
        method: How the student learns.
        guidance: Guidance scale of the teacher's samples; by default the teacher's own.
        steps: Default number of sampling steps of the student.
        lora: Train low-rank adapters only, in the layout of public LCM-LoRAs; for a teacher that is a model with a
            Stable Diffusion U-Net. None trains all weights.
        **kwargs: Arguments of the component that trained the teacher.

    Attributes:
        teacher: The teacher's network, frozen.

    Raises:
        InputError: The teacher is of another stage, is a student itself, or has an unsupported scheduler.
    """

    teacher: nn.Module

    def __init__(
        self,
        teacher: str,
        method: Consistency | None = None,
        guidance: float | None = None,
        steps: int = 4,
        lora: LoRA | None = None,
        **kwargs: Any,
    ) -> None:
        self._source = str(Path(teacher).resolve() if Path(teacher).exists() else teacher)
        trained = load_stage(teacher, self.stage, "model.teacher")
        scheduler = trained.parts["scheduler"]
        if isinstance(scheduler, LCMScheduler | FlowMatchLCMScheduler):
            raise InputError(
                f"model.teacher {teacher}: it is sampled by {type(scheduler).__name__}, as students are, and follows "
                "no trajectory; give the model that it was distilled from"
            )
        try:
            given = super().arguments_of(trained)
        except InputError as error:
            raise InputError(f"model.teacher {teacher}: {error}") from error
        super().__init__(
            network=given["network"],
            autoencoder=given["autoencoder"],
            video_shape=given["video_shape"],
            condition=given["condition"],
            objective=given["objective"],
            condition_dropout=0.0,
            **kwargs,
        )
        if self.learned_from != trained.trained_on:
            raise InputError(
                f"model.teacher {teacher}: its autoencoder {self.autoencoder_path} has other weights than in training; "
                "put those back"
            )
        self.method = method or LatentConsistency()
        self.fps = trained.fps
        self.guidance = float(trained.sampling.get("guidance", GUIDANCE[self.stage]) if guidance is None else guidance)
        if not math.isfinite(self.guidance):
            raise InputError(f"model.guidance {guidance}: give a finite number")
        self._check_steps(steps)
        self.sampling_defaults = {"steps": steps, "guidance": 1.0}
        self.keep_frozen(teacher=copy.deepcopy(self.network))
        self._taught_by = fingerprint(self.network.state_dict())
        self._keep_encoder()
        self.network.requires_grad_(True).train()
        self.lora = lora
        if lora is not None:
            self.add_adapters(self._base_of(teacher))

    def _check_steps(self, steps: int) -> None:
        check_positive(**{"model.steps": steps})
        if isinstance(self.method, LatentConsistency):
            try:
                self.objective.ladder(self.method.intervals)
            except InputError as error:
                raise InputError(f"model.method.{error}") from error
        most = self.sampler().config.get("original_inference_steps", steps)
        if steps > most:
            raise InputError(f"model.steps {steps}: the student is sampled in 1 to {most}; give such a number")

    def _base_of(self, teacher: str) -> StableDiffusion:
        """The model that adapters of the network are for."""
        if not isinstance(self.network, UNet2DConditionModel):
            raise InputError(
                f"model.lora: it is for Stable Diffusion's U-Net, and model.teacher {teacher} has a "
                f"{type(self.network).__name__}; leave it out"
            )
        if not is_model(teacher):
            raise InputError(
                f"model.lora: adapters are stored without their base, and model.teacher {teacher} is not a model "
                "folder; `export` the teacher first and give the folder"
            )
        return StableDiffusion(str(model_folder(teacher)), option="model.teacher")

    @classmethod
    def arguments_of(cls, stage: Stage) -> dict[str, Any]:
        if "teacher" not in stage.arguments:
            raise InputError("checkpoint_path: it contains no student; give a checkpoint of a distillation")
        return {"method": method_of(stage.arguments["method"])}

    def arguments(self) -> dict[str, Any]:
        own = {"teacher": self._source, "method": self.method.plain(), "guidance": self.guidance}
        inherited = super().arguments()
        for name in ("autoencoder", "objective", "condition_dropout"):  # the teacher's
            inherited.pop(name, None)
        return inherited | own | {"steps": int(self.sampling_defaults["steps"])}

    def adopt(self, stage: Stage, source: str) -> None:
        self.network.load_state_dict(stage.parts["network"].state_dict())
        super().adopt(stage, source)
        self._keep_encoder()

    def _keep_encoder(self) -> None:
        """Freezes the condition encoder, which the teacher uses too."""
        if isinstance(self.condition_encoder, nn.Module):
            self.condition_encoder.requires_grad_(False).eval()

    def sampler(self) -> Scheduler:
        made = solver("lcm", self.objective.scheduler())
        if isinstance(made, LCMScheduler) and isinstance(self.method, LatentConsistency):
            made.register_to_config(original_inference_steps=self.method.intervals)
        return made

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """Adds noise to the clean latents, and computes the loss of `method`."""
        clean, content = self.training_latents(batch)
        student, teacher = self._pair(self.condition(batch), content, len(clean))
        noise = self.normal(batch, "noise")(tuple(clean.shape[1:])).to(clean)
        quantile = self.uniform(batch, "timestep")
        loss = self.method.loss(self.objective, student, teacher, clean, noise, quantile).mean()
        self.log("train/loss", loss, prog_bar=True, batch_size=len(clean))
        return loss

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Mean squared error of the student's jumps from points of a teacher's trajectory, compared with its end.

        The noise is fixed. The jumps start at equal intervals of the schedule, the first from pure noise.
        """
        clean, content = self.clean_latents(batch)
        student, teacher = self._pair(self.condition(batch), content, len(clean))
        noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(batch_idx)).to(clean)
        steps = math.gcd(5 * LEVELS, self.objective.num_train_timesteps)
        *passed, (_, end) = trajectory(self.objective, teacher, noise, steps)
        errors = []
        for timestep, noisy in passed[:: max(1, steps // LEVELS)]:
            errors.append((jump(self.objective, student, noisy, timestep) - end).float().square().mean())
            self.log_mean(f"val/loss_at_{int(timestep[0])}", errors[-1], len(clean))
        self.log_mean("val/loss", torch.stack(errors).mean(), len(clean), prog_bar=True)

    def _pair(self, condition: Condition | None, content: Tensor | None, count: int) -> tuple[Predict, Predict]:
        """The student and the guided teacher as functions of noisy latents and timesteps."""
        encoder = self.condition_encoder
        null = encoder.null(count) if encoder is not None and self.guidance > 1 else None
        student = Guided(self.denoiser(self.network, content), condition, None, 1.0)
        return student, Guided(self.denoiser(self.teacher, content), condition, null, self.guidance)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint[KEY]["taught_by"] = self._taught_by

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        if checkpoint[KEY].get("taught_by") != self._taught_by:
            raise InputError(
                "model.teacher: the checkpoint's student has another teacher; give that one, or train from scratch "
                "without `ckpt_path`"
            )


class ContentDistillation(Distillation, ContentDiffusion):
    """`Distillation` of a content stage, also one on Stable Diffusion.

    Arguments are those of `Distillation` and `ContentDiffusion`, without those that the teacher determines.

    Examples:
        >>> from cmd_lightning.components import ContentDistillation
        >>> student = ContentDistillation(teacher="shapes32", steps=2)
        >>> type(student.sampler()).__name__, dict(student.sampling_defaults)
        ('FlowMatchLCMScheduler', {'steps': 2, 'guidance': 1.0})
    """


class MotionDistillation(Distillation, MotionDiffusion):
    """`Distillation` of a motion stage.

    Arguments are those of `Distillation` and `MotionDiffusion`, without those that the teacher determines.

    Examples:
        The student starts with the teacher's weights, and learns its samples with guidance:

        >>> from cmd_lightning.components import MotionDistillation
        >>> student = MotionDistillation(teacher="shapes32", guidance=4.0)
        >>> pairs = zip(student.network.parameters(), student.teacher.parameters())
        >>> all(own.equal(taught) for own, taught in pairs)
        True
        >>> dict(student.sampling_defaults)
        {'steps': 4, 'guidance': 1.0}
    """
