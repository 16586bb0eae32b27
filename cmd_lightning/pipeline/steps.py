"""The denoising steps of `CMDPipeline`: the state of a running call, and callbacks that change or end it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from torch import Tensor

from cmd_lightning import compat
from cmd_lightning.diffusion.sampling import Denoiser, Guided, Known, computing_in, generators_of, sample, seeded_noise
from cmd_lightning.errors import InputError
from cmd_lightning.networks import Condition
from cmd_lightning.pipeline.request import NETWORKS, SCHEDULERS, Request, StageName

StepCallback = Callable[[Any, int, Tensor, dict[str, Any]], dict[str, Any]] | PipelineCallback | MultiPipelineCallbacks
"""Called with the pipeline, the number of the step, its timestep and the requested tensors by name; it returns those
that it changes."""

STREAMS: Mapping[StageName, int] = {"content": 0, "motion": 1}
"""The stream of random numbers of each stage; never change it, or seeds would give other videos."""


class Steps:
    """The part of `CMDPipeline` that runs the steps of a stage.

    Its properties are those of diffusers' pipelines, for callbacks; a callback that sets `_interrupt` ends the call
    after its step, and one that sets `_guidance_scale` changes the scale from the next step on.
    """

    progress_bar: Any
    sampling: Any
    _conditions: Any
    _callback_tensor_inputs: ClassVar[list[str]] = ["latents", "prompt_embeds", "negative_prompt_embeds"]
    _stage: StageName | None = None
    _guidance_scale: float = 1.0
    _guidance_rescale: float = 0.0
    _num_timesteps: int = 0
    _current_timestep: Tensor | None = None
    _interrupt: bool = False
    _attention_kwargs: Mapping[str, Any] | None = None
    _callback: StepCallback | None = None
    _callback_inputs: Sequence[str] = ("latents",)

    @property
    def stage(self) -> StageName | None:
        """The stage that runs, "content" or "motion"; after a call the last one."""
        return self._stage

    @property
    def guidance_scale(self) -> float:
        """The guidance scale of the stage that runs."""
        return self._guidance_scale

    @property
    def guidance_rescale(self) -> float:
        """The rescaling of guidance, see `Guided`."""
        return self._guidance_rescale

    @property
    def do_classifier_free_guidance(self) -> bool:
        """Whether guidance is enabled in the stage that runs."""
        return self._guidance_scale > 1

    @property
    def num_timesteps(self) -> int:
        """Timesteps of the stage that runs: more than its steps for a scheduler of second order."""
        return self._num_timesteps

    @property
    def current_timestep(self) -> Tensor | None:
        """The current timestep; None outside a stage."""
        return self._current_timestep

    @property
    def attention_kwargs(self) -> Mapping[str, Any] | None:
        """Arguments of the call for attention processors."""
        return self._attention_kwargs

    @property
    def interrupt(self) -> bool:
        """Whether the call ends after the current step."""
        return self._interrupt

    def _begin(
        self, request: Request, callback: StepCallback | None = None, inputs: Sequence[str] = ("latents",)
    ) -> Request:
        """Sets the state of a new call; returns the request unchanged."""
        if isinstance(callback, PipelineCallback | MultiPipelineCallbacks):
            inputs = callback.tensor_inputs
        if unknown := set(inputs) - set(self._callback_tensor_inputs):
            raise InputError(
                f"`callback_on_step_end_tensor_inputs`: no tensor {sorted(unknown)[0]!r}; there are "
                f"{', '.join(self._callback_tensor_inputs)}"
            )
        self._callback, self._callback_inputs, self._interrupt = callback, inputs, False
        self._attention_kwargs = request.attention_kwargs or None
        return request

    def _denoise(
        self, stage: StageName, denoiser: Denoiser, shape: Sequence[int], request: Request, known: Known | None
    ) -> Tensor:
        """Samples `(B, *shape)`, in float32, from noise or known latents, with the denoiser of a stage."""
        number, scale = self.sampling(stage, request.steps, request.guidance)
        network, scheduler = getattr(self, NETWORKS[stage]), getattr(self, SCHEDULERS[stage])
        condition, null = self._conditions(stage, scale, request)
        generators = generators_of(request.seeds, STREAMS[stage])
        noise = seeded_noise(shape, generators)  # even if given: stochastic schedulers use the next numbers
        place = compat.execution_device(network), torch.float32
        noise = request.latents.get(stage, noise).to(*place)
        first, order = 0, getattr(scheduler, "order", 1)
        if known is not None:
            known, first = replace(known, clean=known.clean.to(*place)), known.first_step(number)
        guided = Guided(computing_in(network.dtype, denoiser), condition, null, scale, request.guidance_rescale)
        self._stage, self._guidance_scale, self._guidance_rescale = stage, scale, request.guidance_rescale
        with self.progress_bar(total=number - first) as bar:
            bar.set_description(stage)

            def predict(noisy: Tensor, timestep: Tensor) -> Tensor:
                self._current_timestep, guided.scale = timestep[0], self._guidance_scale
                self._num_timesteps = len(scheduler.timesteps) - first * order
                return guided(noisy, timestep)

            def on_step(step: int, timestep: Tensor, x: Tensor) -> Tensor:
                if (step + 1) % order == 0 or step + 1 == self._num_timesteps:
                    bar.update()
                return self._called_back(guided, step, timestep, x)

            sampled = sample(predict, scheduler, noise, number, generators, on_step, lambda: self._interrupt, known)
        self._current_timestep = None
        return sampled

    def _called_back(self, guided: Guided, step: int, timestep: Tensor, x: Tensor) -> Tensor:
        """The sample after a step, as returned by the callback, which may change the conditions too."""
        if self._callback is None:
            return x
        state: dict[str, Tensor | Condition | None] = {
            "latents": x,
            "prompt_embeds": guided.condition,
            "negative_prompt_embeds": guided.null,
        }
        changed = self._callback(self, step, timestep, {name: state[name] for name in self._callback_inputs})
        state |= changed or {}
        guided.condition, guided.null = state["prompt_embeds"], state["negative_prompt_embeds"]  # type: ignore[assignment]  # the callback's part
        return state["latents"]  # type: ignore[return-value]  # the callback's part
