"""What a call of `CMDPipeline` asks for, in the form that its stages read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor

from cmd_lightning.conditioning import Values
from cmd_lightning.diffusion.sampling import Known, PerStage
from cmd_lightning.networks import Condition

StageName = Literal["content", "motion"]

NETWORKS: Mapping[StageName, str] = {"content": "unet", "motion": "motion_model"}
SCHEDULERS: Mapping[StageName, str] = {"content": "scheduler", "motion": "motion_scheduler"}
"""The parts of each stage."""


@dataclass(frozen=True)
class Request:
    """What both stages are asked for.

    Args:
        values: Captions or class ids, one for each video, or how many videos.
        seeds: One for each video.
        steps: Denoising steps, see `CMDPipeline.sampling`.
        guidance: Guidance scale, see `CMDPipeline.sampling`.
        negative: A negative prompt for each video; None for the null condition.
        embeds: Encoded prompts by stage, in the place of `values`.
        negative_embeds: Encoded negative prompts by stage.
        latents: Initial noise by stage, in the place of that of the seeds.
        guidance_rescale: See `Guided`.
        attention_kwargs: Arguments for the attention processors of a Stable Diffusion U-Net; its `scale` is that of
            LoRA adapters.
        known: Content frames `(B, C, H, W)` and motion latents `(B, D, T, S)` that are given, by stage.
        notes: For each video, what its user should know: truncated prompts, resized images.
    """

    values: Values
    seeds: Sequence[int]
    steps: PerStage = None
    guidance: PerStage = None
    negative: Sequence[str] | None = None
    embeds: Mapping[str, Condition] = field(default_factory=dict)
    negative_embeds: Mapping[str, Condition] = field(default_factory=dict)
    latents: Mapping[str, Tensor] = field(default_factory=dict)
    guidance_rescale: float = 0.0
    attention_kwargs: Mapping[str, Any] = field(default_factory=dict)
    known: Mapping[str, Known] = field(default_factory=dict)
    notes: Sequence[list[str]] = ()
