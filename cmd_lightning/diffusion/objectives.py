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
    def at(self, share: Tensor) -> Tensor:
        """Timesteps at shares of the schedule, in [0, 1)."""

    def timesteps(self, quantile: Tensor) -> Tensor:
        """Timesteps at the given quantiles, in [0, 1), of the training distribution."""
        return self.at(self.shares(quantile))

    @abstractmethod
    def ladder(self, steps: int) -> Tensor:
        """The timesteps that a sampler of so many steps visits, `(steps + 1,)`, from 0 (clean) to pure noise.

        Raises:
            InputError: The schedule cannot be divided into that many steps.
        """

    @abstractmethod
    def corrupt(self, clean: Tensor, noise: Tensor, timestep: Tensor) -> Tensor:
        """The noisy sample that the network sees."""

    @abstractmethod
    def target(self, clean: Tensor, noise: Tensor, timestep: Tensor) -> Tensor:
        """What the network should say."""

    @abstractmethod
    def split(self, prediction: Tensor, noisy: Tensor, timestep: Tensor) -> tuple[Tensor, Tensor]:
        """The clean sample and the noise that a prediction says `noisy` is made of; undoes `corrupt`."""

    def anchored(self, clean: Tensor, noisy: Tensor, timestep: Tensor) -> Tensor:
        """A predicted clean sample, tied to `noisy` at timestep 0, as consistency models need it (arXiv 2303.01469).

        By default the prediction itself, for objectives where it is `noisy` at timestep 0 already.
        """
        return clean

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

    def at(self, share: Tensor) -> Tensor:
        return (share * self.num_train_timesteps).long()

    def ladder(self, steps: int) -> Tensor:
        if not 1 <= steps <= self.num_train_timesteps or self.num_train_timesteps % steps:
            raise InputError(
                f"intervals {steps}: the teacher's schedule has {self.num_train_timesteps} timesteps; give a divisor "
                "of that"
            )
        return (torch.arange(steps + 1) * (self.num_train_timesteps // steps) - 1).clamp_min(0)

    def corrupt(self, clean: Tensor, noise: Tensor, timestep: Tensor) -> Tensor:
        return self._scheduler.add_noise(clean, noise, timestep)

    def target(self, clean: Tensor, noise: Tensor, timestep: Tensor) -> Tensor:
        if self.prediction == "epsilon":
            return noise
        if self.prediction == "sample":
            return clean
        return self._scheduler.get_velocity(clean, noise, timestep)

    def split(self, prediction: Tensor, noisy: Tensor, timestep: Tensor) -> tuple[Tensor, Tensor]:
        kept = spread(self._scheduler.alphas_cumprod.to(noisy.device)[timestep], noisy)
        signal, sigma = kept.sqrt(), (1 - kept).sqrt()
        if self.prediction == "epsilon":
            return (noisy - sigma * prediction) / signal, prediction
        if self.prediction == "sample":
            return prediction, (noisy - signal * prediction) / sigma
        return signal * noisy - sigma * prediction, sigma * noisy + signal * prediction

    def anchored(self, clean: Tensor, noisy: Tensor, timestep: Tensor) -> Tensor:
        """As latent consistency models have it (arXiv 2310.04378), and diffusers' `LCMScheduler`: 0.5 is the data's
        standard deviation, and a timestep counts as 10.
        """
        scaled = spread(timestep.float() * 10, noisy)
        return clean * scaled / (scaled**2 + 0.25).sqrt() + noisy * 0.25 / (scaled**2 + 0.25)

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

    def at(self, share: Tensor) -> Tensor:
        sigma = self.shift * share / (1 + (self.shift - 1) * share)
        return sigma * self.num_train_timesteps

    def ladder(self, steps: int) -> Tensor:
        return self.at(torch.linspace(0, 1, steps + 1))

    def corrupt(self, clean: Tensor, noise: Tensor, timestep: Tensor) -> Tensor:
        sigma = spread(timestep / self.num_train_timesteps, clean)
        return (1 - sigma) * clean + sigma * noise

    def target(self, clean: Tensor, noise: Tensor, timestep: Tensor) -> Tensor:
        return noise - clean

    def split(self, prediction: Tensor, noisy: Tensor, timestep: Tensor) -> tuple[Tensor, Tensor]:
        sigma = spread(timestep / self.num_train_timesteps, noisy)
        return noisy - sigma * prediction, noisy + (1 - sigma) * prediction


def spread(values: Tensor, like: Tensor) -> Tensor:
    """A value for each sample, `(B,)`, in the dtype of `like` `(B, ...)` and with as many axes."""
    return values.view(-1, *[1] * (like.ndim - 1)).to(like.dtype)


def flow_shift(config: Mapping[str, Any]) -> float | None:
    """The `FlowMatching.shift` of the config of a diffusers scheduler; None if it is not one of flow matching."""
    if config.get("use_flow_sigmas"):
        return config["flow_shift"]
    return None if "beta_schedule" in config or config.get("use_dynamic_shifting") else config.get("shift")


def recorded(objective: Objective) -> dict[str, Any]:
    """What `objective_of` needs besides the scheduler, as plain data."""
    options = {"gamma": getattr(objective, "min_snr_gamma", None), "logit_normal": objective.logit_normal}
    return {"name": type(objective).__name__, "velocity_loss": getattr(objective, "velocity_loss", False)} | options


def objective_of(
    scheduler: SchedulerMixin,
    name: str | None = None,
    gamma: float | None = None,
    velocity_loss: bool = False,
    logit_normal: tuple[float, float] | None = None,
) -> Objective:
    """The objective that a model was trained with.

    Args:
        scheduler: Its `scheduler()`.
        name: Its class; by default that which the scheduler is for.
        gamma: Its `min_snr_gamma`.
        velocity_loss: Its `velocity_loss`.
        logit_normal: Its `logit_normal`.

    Raises:
        InputError: It is a custom class, or no objective here fits the scheduler.
    """
    config: dict[str, Any] = dict(scheduler.config)  # type: ignore[attr-defined]  # all schedulers have it
    shift = flow_shift(config)
    if name not in (None, "Diffusion", "FlowMatching"):
        raise InputError(f"objective {name}: checkpoints do not store custom objectives; build the component in code")
    if shift is not None:
        return FlowMatching(shift, config["num_train_timesteps"], logit_normal)
    if "beta_schedule" not in config or config.get("trained_betas") is not None:
        raise InputError(
            f"scheduler {type(scheduler).__name__}: it has neither a noise schedule by name nor a fixed shift; give a "
            "model with such a scheduler, as DDIMScheduler and FlowMatchEulerDiscreteScheduler are"
        )
    names = ("beta_schedule", "beta_start", "beta_end", "num_train_timesteps", "clip_sample", "rescale_betas_zero_snr")
    same = {option: config[option] for option in names if option in config}
    weighting: dict[str, Any] = {"min_snr_gamma": gamma, "velocity_loss": velocity_loss, "logit_normal": logit_normal}
    return Diffusion(prediction=config["prediction_type"], **weighting, **same)
