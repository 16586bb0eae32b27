"""From noise to a sample: the loop over a diffusers scheduler, guidance, and noise that belongs to a seed."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.schedulers.scheduling_flow_match_lcm import FlowMatchLCMScheduler
from torch import Tensor

from cmd_lightning.errors import InputError
from cmd_lightning.networks import Condition, MotionModel

Denoiser = Callable[[Tensor, Tensor, Condition | None], Tensor]
"""Predicts from `(noisy, timestep (B,), condition)`."""
Scheduler = Any
"""Any scheduler of diffusers; their base class does not declare what they share."""
PerStage = float | Mapping[str, float] | None
"""A setting of sampling, by the names of stages where they differ; None for a model's own."""


def per_stage(value: PerStage, default: Mapping[str, float], option: str) -> dict[str, float]:
    """A number, a mapping by stage or None as a full mapping by stage.

    Raises:
        InputError: There is no such stage among those of `default`; `option` is what the user calls the setting.
    """
    if value is None:
        return dict(default)
    if isinstance(value, Mapping):
        if unknown := set(value) - set(default):
            raise InputError(f"`{option}`: no stage {sorted(unknown)[0]!r}; the stages are {', '.join(default)}")
        return {**default, **value}
    return dict.fromkeys(default, value)


def chosen(
    stage: str,
    steps: PerStage,
    guidance: PerStage,
    own_steps: Mapping[str, float],
    own_guidance: Mapping[str, float],
    scheduler: Scheduler,
) -> tuple[int, float]:
    """Denoising steps and guidance scale of a stage: the given ones, else the model's own.

    Args:
        stage: Name of the stage.
        steps: Given number of denoising steps, see `PerStage`.
        guidance: Given guidance scale, see `PerStage`.
        own_steps: The model's own number of steps, by stage.
        own_guidance: The model's own guidance scale, by stage.
        scheduler: The scheduler of this stage.

    Raises:
        InputError: There is no such stage, or a number is out of range.
    """
    number = per_stage(steps, own_steps, "steps")[stage]
    config = scheduler.config
    most = min(config.num_train_timesteps, config.get("original_inference_steps", config.num_train_timesteps))
    if not 1 <= number <= most:
        raise InputError(f"steps {number}: the {stage} model takes 1 to {most}; give such a number")
    scale = per_stage(guidance, own_guidance, "guidance")[stage]
    if not math.isfinite(scale):
        raise InputError(f"guidance {scale}: give a finite number")
    return int(number), scale


def generators_of(seeds: Sequence[int], stream: int) -> list[torch.Generator]:
    """A source of random numbers for each sample, of its seed and `stream` alone.

    They draw on the CPU, so that a seed gives the same numbers on every device and in every batch.
    """
    # Two seeds never share a generator with another stream: streams interleave.
    return [torch.Generator().manual_seed(2 * seed + stream) for seed in seeds]


def seeded_noise(shape: Sequence[int], generators: Sequence[torch.Generator]) -> Tensor:
    """Standard normal noise `(len(generators), *shape)`, that of a sample from its own generator."""
    return torch.stack([torch.randn(*shape, generator=generator) for generator in generators])


@dataclass
class Guided:
    """A denoiser with its condition put in, under classifier-free guidance; all may be changed between steps.

    Its prediction is `e_null + scale * (e_condition - e_null)`, both from one batch. The paper's Algorithm 1 writes
    `(1 + w) e_condition - w e_null`: scale = 1 + w. As in diffusers, a scale of 1 or less disables guidance: the
    prediction is that under the condition.

    Args:
        denoiser: The network.
        condition: What it is conditioned on; None for an unconditional model.
        null: The null condition, or that of a negative prompt; None where there is no guidance.
        scale: The guidance scale.
        rescale: How far to bring the standard deviation of the prediction back to that without guidance, from 0 to 1
            (Lin et al., arXiv 2305.08891, section 3.4).
    """

    denoiser: Denoiser
    condition: Condition | None
    null: Condition | None
    scale: float
    rescale: float = 0.0

    def __call__(self, noisy: Tensor, timestep: Tensor) -> Tensor:
        """The prediction from `noisy` `(B, ...)` and `timestep` `(B,)`."""
        if self.condition is None or self.null is None or self.scale <= 1:
            return self.denoiser(noisy, timestep, self.condition)
        both = self.condition.combine(self.null, lambda own, empty: torch.cat([own, empty]))
        own, empty = self.denoiser(torch.cat([noisy, noisy]), torch.cat([timestep, timestep]), both).chunk(2)
        prediction = empty + self.scale * (own - empty)
        if self.rescale:
            axes = tuple(range(1, own.ndim))
            ratio = own.std(axes, keepdim=True) / prediction.std(axes, keepdim=True)
            prediction = prediction * (1 + self.rescale * (ratio - 1))
        return prediction


def autoguided(denoiser: Denoiser, weak: Denoiser, scale: float) -> Denoiser:
    """A denoiser guided by a worse version of itself (Karras et al., arXiv 2406.02507).

    Its prediction is `weak + scale * (own - weak)`, both under the same condition. The worse version is an earlier
    checkpoint or a smaller network, trained on the same data. At scale 1 it is never called. It can be combined
    with `Guided`; unlike `Guided`, it improves quality without reducing diversity.
    """
    if scale == 1:
        return denoiser

    def predict(noisy: Tensor, timestep: Tensor, condition: Condition | None) -> Tensor:
        worse = weak(noisy, timestep, condition)
        return worse + scale * (denoiser(noisy, timestep, condition) - worse)

    return predict


def given_content(network: MotionModel, content: Tensor) -> Denoiser:
    """A motion model with the clean content frames `(B, C, H, W)` put in, which are prepared once for all steps.

    A batch of twice their number, as guidance has it, is of the same frames twice.
    """
    prepared = functools.cache(lambda copies: network.prepare(content.repeat(copies, 1, 1, 1)))

    def predict(noisy: Tensor, timestep: Tensor, condition: Condition | None) -> Tensor:
        return network(noisy, timestep, prepared(len(noisy) // len(content)), condition)

    return predict


def computing_in(dtype: torch.dtype, denoiser: Denoiser) -> Denoiser:
    """A denoiser on inputs cast to the type that it computes in.

    All else stays in the precision of the noise that sampling starts from: in half precision, noise and the solver's
    sums of many small steps would lose what the steps are about.
    """

    def cast(x: Tensor) -> Tensor:
        return x.to(dtype) if x.is_floating_point() else x

    return lambda noisy, timestep, condition: denoiser(
        cast(noisy), timestep, None if condition is None else condition.map(cast)
    )


@dataclass(frozen=True)
class Known:
    """A clean sample that denoising starts from, and that stays in places.

    Args:
        clean: `(B, ...)`, as the denoiser was trained on.
        strength: Share of the steps that run, rounded, but at least one (SDEdit, arXiv 2108.01073): 1 starts from noise
            alone, and at 0 nothing is changed.
        kept: Where the sample stays `clean`, bool, broadcast to it; None for nowhere. Around it, denoising sees it with
            the noise of each step (as in RePaint, arXiv 2201.09865).
    """

    clean: Tensor
    strength: float = 1.0
    kept: Tensor | None = None

    def first_step(self, steps: int) -> int:
        """The number of the step that denoising begins with."""
        return steps - max(1, round(steps * self.strength))

    def repeat(self, times: int) -> Known:
        """What is known of each sample `times` times in a row."""
        kept = None if self.kept is None else self.kept.repeat_interleave(times, dim=0)
        return Known(self.clean.repeat_interleave(times, dim=0), self.strength, kept)

    def restore(self, x: Tensor, clean: Tensor) -> Tensor:
        """`x` with the places that are kept as in `clean`."""
        return x if self.kept is None else torch.where(self.kept.to(x.device), clean, x)


def noised(scheduler: Scheduler, clean: Tensor, noise: Tensor, timestep: Tensor) -> Tensor:
    """A clean sample with the noise of a timestep, as the scheduler mixes them."""
    timesteps = timestep.reshape(1).expand(len(clean))
    if hasattr(scheduler, "scale_noise"):  # of flow matching
        return scheduler.scale_noise(clean, timesteps, noise)
    return scheduler.add_noise(clean, noise, timesteps)


def sample(
    predict: Callable[[Tensor, Tensor], Tensor],
    scheduler: Scheduler,
    noise: Tensor,
    steps: int,
    generators: Sequence[torch.Generator] = (),
    on_step: Callable[[int, Tensor, Tensor], Tensor | None] = lambda step, timestep, x: None,
    stopped: Callable[[], bool] = lambda: False,
    known: Known | None = None,
) -> Tensor:
    """Runs `scheduler` for `steps` steps from `noise` and returns the clean sample, in the shape of `noise`.

    Args:
        predict: The denoiser's prediction from `(noisy, timestep (B,))`, such as `Guided`.
        scheduler: Any diffusers scheduler; its own state is overwritten. DDIM runs with eta = 0.
        noise: Standard normal, `(B, ...)`, in float32.
        steps: Number of denoising steps.
        generators: One for each sample, which a stochastic scheduler draws that sample's noise from; without them, it
            draws from torch's global generator.
        on_step: Called after each step with its number, timestep and the sample so far; what it returns, unless None,
            replaces the sample.
        stopped: Called before each step; once it returns True, the sample so far is returned.
        known: What to start from, or to keep in places; None to generate all of it.
    """
    # Schedulers look every step up in tables on the CPU: a timestep on the device would be waited for. The network's
    # own are copied there once.
    set_steps(scheduler, steps)
    trim_trailing(scheduler)
    begin = 0 if known is None else known.first_step(steps) * getattr(scheduler, "order", 1)
    timesteps = scheduler.timesteps[begin:]
    on_device = timesteps.to(noise.device).unbind()
    takes = inspect.signature(scheduler.step).parameters
    given = {"return_dict": False, "eta": 0.0, "generator": list(generators) or None}
    extra: dict[str, Any] = {name: value for name, value in given.items() if name in takes}
    if known is not None and hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(begin)
    if known is None or begin == 0:
        x = noise * getattr(scheduler, "init_noise_sigma", 1.0)
    else:
        x = noised(scheduler, known.clean, noise, timesteps[0])
    for step, (timestep, seen) in enumerate(zip(timesteps, on_device, strict=True)):
        if stopped():
            break
        x_in = scheduler.scale_model_input(x, timestep) if hasattr(scheduler, "scale_model_input") else x
        # A copy: solvers keep predictions, and a CUDA graph writes the next one over the last.
        prediction = predict(x_in, seen.expand(len(x))).to(x.dtype, copy=True)
        x = scheduler.step(prediction, timestep, x, **extra)[0]
        if known is not None and known.kept is not None:
            last = step + 1 == len(timesteps)
            clean = known.clean if last else noised(scheduler, known.clean, noise, timesteps[step + 1])
            x = known.restore(x, clean)
        changed = on_step(step, timestep, x)
        x = x if changed is None else changed
    return x


def set_steps(scheduler: Scheduler, steps: int) -> None:
    """Has a scheduler choose the timesteps of so many steps.

    diffusers' LCM for flow matching would spend the last step next to the clean sample, where nothing is left to do:
    four steps would be three. It gets equal shares of the schedule, before its shift, as all others have.
    """
    if isinstance(scheduler, FlowMatchLCMScheduler):
        scheduler.set_timesteps(sigmas=[1 - step / steps for step in range(steps)])
    else:
        scheduler.set_timesteps(steps)


def trim_trailing(scheduler: Scheduler) -> None:
    """Takes away a step too many.

    For some numbers of steps, such as 61 or 103, rounding gives the "trailing" timesteps of diffusers one more, at -1,
    which tables read as pure noise: the last step would start again.
    """
    if scheduler.timesteps[-1] >= 0:
        return
    scheduler.timesteps = scheduler.timesteps[:-1]
    if len(getattr(scheduler, "sigmas", ())) == len(scheduler.timesteps) + 2:  # one for each step, and the end
        scheduler.sigmas = torch.cat([scheduler.sigmas[:-2], scheduler.sigmas[-1:]])
