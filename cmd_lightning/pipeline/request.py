"""The arguments of a call of `CMDPipeline`, in the form that its stages use."""

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
    """Images that guide content frames.

    Args:
        images: Images of each ControlNet, `(B, 3, H, W)` in [0, 1].
        scales: The weight of each ControlNet.
        starts: The share of the steps after which each begins.
        ends: The share of the steps after which each ends.
        embeds: Image embeddings of each IP-Adapter, in the form of the U-Net, `(B, N, ...)`; with guidance
            `(2 * B, N, ...)`, the second half for the null condition.
    """

    images: Sequence[Tensor] = ()
    scales: Sequence[float] = ()
    starts: Sequence[float] = ()
    ends: Sequence[float] = ()
    embeds: Sequence[Tensor] = ()


@dataclass(frozen=True)
class Request:
    """The checked arguments of a call.

    Args:
        values: Captions or class ids, one for each video, or the number of videos.
        seeds: A seed for each video.
        steps: Denoising steps, see `CMDPipeline.sampling`.
        guidance: Guidance scale, see `CMDPipeline.sampling`.
        negative: A negative prompt for each video; None for the null condition.
        embeds: Encoded prompts by stage, which replace `values`.
        negative_embeds: Encoded negative prompts by stage.
        latents: Initial noise by stage, which replaces that of the seeds.
        guidance_rescale: See `Guided`.
        attention_kwargs: Arguments for the attention processors of a Stable Diffusion U-Net; its `scale` is that of
            LoRA adapters.
        control: Images that guide the content frames.
        known: Given content frames `(B, C, H, W)` and motion latents `(B, D, T, S)`, by stage.
        notes: For each video, notes for its user on truncated prompts and resized images.
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
