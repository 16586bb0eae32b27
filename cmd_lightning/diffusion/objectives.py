"""What a diffusion network predicts, from what, and how the error is weighted."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Literal

import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from torch import Tensor

from cmd_lightning.errors import InputError

LEAST_SIGMA = 0.05
"""Bounds the weight of a clean sample's error in the velocity loss, as in arXiv 2511.13720."""


class Objective(ABC):
    """A way to train a denoiser, and the scheduler that samples from what it learns.

    Timesteps run from 0 (clean) to `num_train_timesteps` (noise), `(B,)`.

    Attributes:
        logit_normal: Mean and standard deviation of a normal distribution whose sigmoid is the position in the schedule
            that training samples (Esser et al., arXiv 2403.03206); None for uniform positions. (0, 1) samples the
            middle most often.
    """

    num_train_timesteps: int
    logit_normal: tuple[float, float] | None = None

    def shares(self, quantile: Tensor) -> Tensor:
        """Shares of the schedule, in [0, 1), at the given quantiles of the training distribution."""
        if self.logit_normal is None:
            return quantile
        mean, deviation = self.logit_normal
        share = torch.sigmoid(mean + deviation * torch.special.ndtri(quantile.double())).to(quantile.dtype)
        return share.clamp_max(1 - torch.finfo(share.dtype).eps)

    @abstractmethod
    def scheduler(self) -> SchedulerMixin:
        """A fresh diffusers scheduler that fits this objective."""

    @abstractmethod
    def timesteps(self, quantile: Tensor) -> Tensor:
        """Timesteps at the given quantiles, in [0, 1), of the training distribution."""

    @abstractmethod
    def corrupt(self, clean: Tensor, noise: Tensor, timestep: Tensor) -> Tensor:
        """The noisy sample that the network sees."""

    @abstractmethod
    def target(self, clean: Tensor, noise: Tensor, timestep: Tensor) -> Tensor:
        """What the network should say."""

    def weight(self, timestep: Tensor) -> Tensor:
        """The weight of each sample's squared error, `(B,)`."""
        return torch.ones_like(timestep, dtype=torch.float32)

    def loss(self, prediction: Tensor, clean: Tensor, noise: Tensor, timestep: Tensor) -> Tensor:
        """Weighted mean squared error of each sample, `(B,)`, in float32."""
        error = (prediction.float() - self.target(clean, noise, timestep).float()).square().flatten(1).mean(1)
        return self.weight(timestep) * error


class Diffusion(Objective):
    """Denoising diffusion in discrete time: the network predicts the noise (the paper), the velocity or the sample.

    Args:
        prediction: "epsilon" (paper equations 7 and 8), "v_prediction" or "sample".
        beta_schedule: diffusers' name of the noise schedule: "linear" (DiT), "scaled_linear" (Stable Diffusion),
            "squaredcos_cap_v2" (cosine).
        beta_start: First beta.
        beta_end: Last beta.
        num_train_timesteps: Length of the schedule.
        clip_sample: Whether sampling clips the predicted clean sample to [-1, 1]; for pixels, not for latents.
        rescale_betas_zero_snr: Whether the last timestep is pure noise, as some v-prediction models were trained.
        min_snr_gamma: Bound of min-SNR weighting (5 is usual), or None for equal weights.
        velocity_loss: Whether the loss is the error of the velocity computed from the prediction, for any type of
            prediction; with prediction "sample" this is x-prediction with v-loss (arXiv 2511.13720).
        logit_normal: Mean and standard deviation, as for `Objective`.
    """

    def __init__(
        self,
        prediction: Literal["epsilon", "v_prediction", "sample"] = "epsilon",
        beta_schedule: str = "linear",
        beta_start: float = 1e-4,
        beta_end: float = 0.02,
        num_train_timesteps: int = 1000,
        clip_sample: bool = False,
        rescale_betas_zero_snr: bool = False,
        min_snr_gamma: float | None = None,
        velocity_loss: bool = False,
        logit_normal: tuple[float, float] | None = None,
    ) -> None:
        if velocity_loss and min_snr_gamma is not None:
            raise InputError(
                "objective.velocity_loss true, objective.min_snr_gamma: both set the weights of the loss; give only one"
            )
        if rescale_betas_zero_snr and prediction == "epsilon":
            raise InputError(
                "objective.rescale_betas_zero_snr true: the last timestep is all noise then, and to predict that says "
                "nothing; give prediction v_prediction"
            )
        self.prediction, self.min_snr_gamma = prediction, min_snr_gamma
        self.velocity_loss, self.logit_normal = velocity_loss, logit_normal
        self.num_train_timesteps = num_train_timesteps
        self._scheduler = DDIMScheduler(
            num_train_timesteps=num_train_timesteps,
            beta_start=beta_start,
            beta_end=beta_end,
            beta_schedule=beta_schedule,
            prediction_type=prediction,
            clip_sample=clip_sample,
            rescale_betas_zero_snr=rescale_betas_zero_snr,
            timestep_spacing="trailing",  # the first step then starts from pure noise, as in training
            steps_offset=1,  # no difference with this spacing, but Stable Diffusion's pipeline warns of another
        )

    @classmethod
    def of(cls, scheduler: Mapping[str, Any]) -> Diffusion:
        """The objective that a model was trained with, from the config of its diffusers scheduler.

        Raises:
            InputError: The scheduler says nothing of a noise schedule, as those of flow matching do not.
        """
        if "beta_schedule" not in scheduler or scheduler.get("trained_betas") is not None:
            raise InputError(
                f"model.base: its scheduler {scheduler.get('_class_name')} has no noise schedule by name; "
                "give model.objective"
            )
        names = ("beta_schedule", "beta_start", "beta_end", "num_train_timesteps", "rescale_betas_zero_snr")
        same = {name: scheduler[name] for name in names if name in scheduler}
        return cls(prediction=scheduler.get("prediction_type", "epsilon"), **same)

    def scheduler(self) -> DDIMScheduler:
        return DDIMScheduler.from_config(self._scheduler.config)

    def timesteps(self, quantile: Tensor) -> Tensor:
        return (self.shares(quantile) * self.num_train_timesteps).long()

    def corrupt(self, clean: Tensor, noise: Tensor, timestep: Tensor) -> Tensor:
        return self._scheduler.add_noise(clean, noise, timestep)

    def target(self, clean: Tensor, noise: Tensor, timestep: Tensor) -> Tensor:
        if self.prediction == "epsilon":
            return noise
        if self.prediction == "sample":
            return clean
        return self._scheduler.get_velocity(clean, noise, timestep)

    def weight(self, timestep: Tensor) -> Tensor:
        if self.min_snr_gamma is None and not self.velocity_loss:
            return super().weight(timestep)
        kept = self._scheduler.alphas_cumprod.to(timestep.device)[timestep]
        if self.velocity_loss:  # an error e of the clean sample is one of e / sigma of the velocity, and so on
            sigma = (1 - kept).sqrt().clamp_min(LEAST_SIGMA)
            return {"sample": sigma**-2, "epsilon": 1 / kept, "v_prediction": torch.ones_like(kept)}[self.prediction]
        snr = kept / (1 - kept)
        # The weight min(SNR, gamma) belongs to the error of the clean sample; in terms of the other predictions'
        # errors it is divided by SNR (noise) and by SNR + 1 (velocity).
        scale = {"epsilon": snr, "v_prediction": snr + 1, "sample": torch.ones_like(snr)}[self.prediction]
        return snr.clamp_max(self.min_snr_gamma) / scale


class FlowMatching(Objective):
    """Rectified flow: the network predicts `noise - clean` on the straight line between the two.

    Args:
        shift: Moves timesteps towards noise, for large latents: sigma becomes shift·sigma / (1 + (shift - 1)·sigma).
        num_train_timesteps: Scale of the timestep that the network sees.
        logit_normal: Mean and standard deviation, as for `Objective`; the shift comes after it.
    """

    def __init__(
        self,
        shift: float = 1.0,
        num_train_timesteps: int = 1000,
        logit_normal: tuple[float, float] | None = None,
    ) -> None:
        self.shift, self.num_train_timesteps, self.logit_normal = shift, num_train_timesteps, logit_normal

    def scheduler(self) -> FlowMatchEulerDiscreteScheduler:
        return FlowMatchEulerDiscreteScheduler(num_train_timesteps=self.num_train_timesteps, shift=self.shift)

    def timesteps(self, quantile: Tensor) -> Tensor:
        share = self.shares(quantile)
        sigma = self.shift * share / (1 + (self.shift - 1) * share)
        return sigma * self.num_train_timesteps

    def corrupt(self, clean: Tensor, noise: Tensor, timestep: Tensor) -> Tensor:
        sigma = (timestep / self.num_train_timesteps).view(-1, *[1] * (clean.ndim - 1)).to(clean.dtype)
        return (1 - sigma) * clean + sigma * noise

    def target(self, clean: Tensor, noise: Tensor, timestep: Tensor) -> Tensor:
        return noise - clean


def recorded(objective: Objective) -> dict[str, Any]:
    """What `objective_of` needs besides the scheduler, as plain data."""
    options = {"gamma": getattr(objective, "min_snr_gamma", None), "logit_normal": objective.logit_normal}
    return {"name": type(objective).__name__, "velocity_loss": getattr(objective, "velocity_loss", False)} | options


def objective_of(
    scheduler: SchedulerMixin,
    name: str = "Diffusion",
    gamma: float | None = None,
    velocity_loss: bool = False,
    logit_normal: tuple[float, float] | None = None,
) -> Objective:
    """The objective that a model was trained with.

    Args:
        scheduler: Its `scheduler()`.
        name: Its class.
        gamma: Its `min_snr_gamma`.
        velocity_loss: Its `velocity_loss`.
        logit_normal: Its `logit_normal`.

    Raises:
        InputError: It is of a class of the user's own.
    """
    config: dict[str, Any] = dict(scheduler.config)  # type: ignore[attr-defined]  # all schedulers have it
    if name == "FlowMatching":
        return FlowMatching(config["shift"], config["num_train_timesteps"], logit_normal)
    if name != "Diffusion":
        raise InputError(f"objective {name}: checkpoints do not store custom objectives; build the component in code")
    names = ("beta_schedule", "beta_start", "beta_end", "num_train_timesteps", "clip_sample", "rescale_betas_zero_snr")
    same = {option: config[option] for option in names}
    weighting: dict[str, Any] = {"min_snr_gamma": gamma, "velocity_loss": velocity_loss, "logit_normal": logit_normal}
    return Diffusion(prediction=config["prediction_type"], **weighting, **same)
