"""From noise to a sample: the loop over a diffusers scheduler, guidance, and noise that belongs to a seed."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence

import torch
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from torch import Tensor

from cmd_lightning.networks import Condition

Denoiser = Callable[[Tensor, Tensor, Condition | None], Tensor]
"""Predicts from `(noisy, timestep (B,), condition)`."""


def seeded_noise(shape: Sequence[int], seeds: Sequence[int], stream: int) -> Tensor:
    """Standard normal noise `(len(seeds), *shape)`; sample i depends on `seeds[i]` and `stream` alone.

    It is drawn on the CPU, so that a seed gives the same noise on every device and in every batch.
    """
    # Two seeds never share a generator with another stream: streams interleave.
    generators = (torch.Generator().manual_seed(2 * seed + stream) for seed in seeds)
    return torch.stack([torch.randn(*shape, generator=generator) for generator in generators])


def guided(
    denoiser: Denoiser, condition: Condition | None, null: Condition | None, scale: float
) -> Callable[[Tensor, Tensor], Tensor]:
    """The denoiser with its condition put in, under classifier-free guidance.

    Its prediction is `e_null + scale * (e_condition - e_null)`, both from one batch. The paper's Algorithm 1 writes
    `(1 + w) e_condition - w e_null`: scale = 1 + w. At scale 1 there is no second half.
    """
    if condition is None or null is None or scale == 1:
        return lambda noisy, timestep: denoiser(noisy, timestep, condition)
    both = condition.combine(null, lambda own, empty: torch.cat([own, empty]))

    def predict(noisy: Tensor, timestep: Tensor) -> Tensor:
        own, empty = denoiser(torch.cat([noisy, noisy]), torch.cat([timestep, timestep]), both).chunk(2)
        return empty + scale * (own - empty)

    return predict


def sample(
    predict: Callable[[Tensor, Tensor], Tensor],
    scheduler: SchedulerMixin,
    noise: Tensor,
    steps: int,
    on_step: Callable[[], object] = lambda: None,
) -> Tensor:
    """Runs `scheduler` for `steps` steps from `noise` and returns the clean sample, in the shape of `noise`.

    Args:
        predict: The denoiser's prediction from `(noisy, timestep (B,))`; made by `guided`.
        scheduler: Any diffusers scheduler; its own state is overwritten. DDIM runs with eta = 0.
        noise: Standard normal, `(B, ...)`.
        steps: Number of denoising steps.
        on_step: Called after each step, for progress bars.
    """
    # Schedulers look every step up in tables on the CPU: a timestep on the device would be waited for. The network's
    # own are copied there once.
    scheduler.set_timesteps(steps)
    trim_trailing(scheduler)
    on_device = scheduler.timesteps.to(noise.device).unbind()
    extra = {"return_dict": False}
    if "eta" in inspect.signature(scheduler.step).parameters:
        extra["eta"] = 0.0
    x = noise * getattr(scheduler, "init_noise_sigma", 1.0)
    for timestep, seen in zip(scheduler.timesteps, on_device, strict=True):
        x_in = scheduler.scale_model_input(x, timestep) if hasattr(scheduler, "scale_model_input") else x
        # A copy: solvers keep predictions, and a CUDA graph writes the next one over the last.
        prediction = predict(x_in, seen.expand(len(x))).to(x.dtype, copy=True)
        x = scheduler.step(prediction, timestep, x, **extra)[0]
        on_step()
    return x


def trim_trailing(scheduler: SchedulerMixin) -> None:
    """Takes away a step too many.

    For some numbers of steps, such as 61 or 103, rounding gives the "trailing" timesteps of diffusers one more, at -1,
    which tables read as pure noise: the last step would start anew.
    """
    if scheduler.timesteps[-1] >= 0:
        return
    scheduler.timesteps = scheduler.timesteps[:-1]
    if len(getattr(scheduler, "sigmas", ())) == len(scheduler.timesteps) + 2:  # one for each step, and the end
        scheduler.sigmas = torch.cat([scheduler.sigmas[:-2], scheduler.sigmas[-1:]])
