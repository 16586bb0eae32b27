"""Videos between two clips: their contents or motions are mixed, then made realistic by denoising."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from cmd_lightning.errors import InputError
from cmd_lightning.pipeline.clips import Clip, Clips, check_single
from cmd_lightning.pipeline.output import CMDPipelineOutput
from cmd_lightning.pipeline.request import NETWORKS, StageName


class Interpolation(Clips):
    """The part of `CMDPipeline` that interpolates."""

    @torch.no_grad()
    def interpolate(
        self,
        first: Clip,
        second: Clip,
        prompt: str | tuple[str, str] | None = None,
        class_labels: int | tuple[int, int] | None = None,
        stage: StageName = "content",
        weights: Sequence[float] = (0.0, 0.25, 0.5, 0.75, 1.0),
        strength: float = 0.6,
        seed: int = 0,
        **call: Any,
    ) -> CMDPipelineOutput:
        """Videos from one clip to another.

        The latents of the stage are mixed, noised by `strength`, all with the same noise, and denoised: a mixture of
        two contents is not a likely content, but the denoised one is. The latents of both ends are kept.

        Args:
            first: A clip or an image.
            second: A clip or an image.
            prompt: One caption, or one of each clip; a video has that of the nearer clip.
            class_labels: One class id, or one of each clip.
            stage: "content": from content to content, with motion generated for each. "motion": from motion to motion,
                all with the content of the first clip.
            weights: For each video the weight of the second clip, from 0 to 1.
            strength: Share of the denoising steps that run, from 0 to 1; 0 only mixes.
            seed: Seed of all videos.
            **call: Other arguments of a call, such as `output_type`.

        Raises:
            InputError: An argument is wrong, or a call rejects its arguments.
        """
        check_single(call)
        if stage not in NETWORKS:
            raise InputError(f"`stage` {stage!r}: choose {', '.join(NETWORKS)}")
        if not weights or not all(0 <= weight <= 1 for weight in weights):
            raise InputError(f"`weights` {list(weights)}: give one for each video, from 0 to 1")
        num = len(weights)
        ends = dict(zip(NETWORKS, self.encode_clips([first, second]), strict=True))
        one, other = ends[stage]
        mixed = torch.stack([torch.lerp(one, other, weight) for weight in weights])
        kept = torch.tensor([weight in (0, 1) for weight in weights]).view(-1, 1, 1, 1)
        given: dict[str, Any] = {stage: mixed}
        if stage == "motion":
            given["content"] = ends["content"][:1].repeat(num, 1, 1, 1)
        output: Any = self(  # type: ignore[operator]  # the pipeline's call
            nearer(prompt, weights, "prompt"),
            nearer(class_labels, weights, "class_labels"),
            **given,
            strength={stage: strength},
            keep={stage: kept},
            seeds=[seed] * num,
            **call,
        )
        return output


def nearer(values: Any, weights: Sequence[float], option: str) -> list[Any] | None:
    """For each video the caption or class of the nearer clip, of two; a single one for all.

    Raises:
        InputError: There are not one or two values.
    """
    if values is None:
        return None
    pair = (values, values) if isinstance(values, str | int) else tuple(values)
    if len(pair) != 2:
        raise InputError(f"`{option}`: {len(pair)} given for two clips; give one, or one of each")
    return [pair[weight >= 0.5] for weight in weights]
