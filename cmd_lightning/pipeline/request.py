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
class Control:
    """What guides content frames besides their condition.

    Args:
        images: For each ControlNet its images, `(B, 3, H, W)` in [0, 1].
        scales: The weight of each ControlNet.
        starts: The share of the steps after which each begins.
        ends: The share of the steps after which each ends.
        embeds: For each IP-Adapter its embeddings of images, as the U-Net takes them, `(B, N, ...)`; with guidance
            `(2 * B, N, ...)`, the second half for the null condition.
    """

    images: Sequence[Tensor] = ()
    scales: Sequence[float] = ()
    starts: Sequence[float] = ()
    ends: Sequence[float] = ()
    embeds: Sequence[Tensor] = ()


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
        control: Images that guide the content frames.
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
    control: Control = field(default_factory=Control)
    known: Mapping[str, Known] = field(default_factory=dict)
    notes: Sequence[list[str]] = ()
