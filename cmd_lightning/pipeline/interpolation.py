"""Videos between two clips: their contents or their motions mixed, and denoised to what the model knows."""

from __future__ import annotations

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
        num: int = 5,
        strength: float = 0.6,
        seed: int = 0,
        **call: Any,
    ) -> CMDPipelineOutput:
        """Videos from one clip to another.

        The latents of the stage are mixed, noised by `strength`, all with the same noise, and denoised: a mixture of
        two contents is no likely content, and what is denoised is one. The latents of both ends stay as they are.

        Args:
            first: A clip or an image.
            second: A clip or an image.
            prompt: One caption, or one of each clip; a video has that of the nearer clip.
            class_labels: One class id, or one of each clip.
            stage: "content": from content to content, with motion generated for each. "motion": from motion to motion,
                all with the content of the first clip.
            num: Videos, with the ends.
            strength: Share of the denoising steps that run, from 0 to 1; 0 only mixes.
            seed: Seed of all videos.
            **call: Other arguments of a call, such as `output_type`.

        Raises:
            InputError: An argument is wrong, or a call rejects its arguments.
        """
        check_single(call)
        if stage not in NETWORKS:
            raise InputError(f"`stage` {stage!r}: choose {', '.join(NETWORKS)}")
        if num < 2:
            raise InputError(f"`num` {num}: give at least 2, as the ends are among the videos")
        ends = dict(zip(NETWORKS, self.encode_clips([first, second]), strict=True))
        one, other = ends[stage]
        mixed = torch.stack([torch.lerp(one, other, weight) for weight in torch.linspace(0, 1, num).tolist()])
        kept = torch.zeros(num, 1, 1, 1, dtype=torch.bool)
        kept[[0, -1]] = True
        given: dict[str, Any] = {stage: mixed}
        if stage == "motion":
            given["content"] = ends["content"][:1].repeat(num, 1, 1, 1)
        output: Any = self(  # type: ignore[operator]  # the pipeline's call
            between(prompt, num, "prompt"),
            between(class_labels, num, "class_labels"),
            **given,
            strength={stage: strength},
            keep={stage: kept},
            seeds=[seed] * num,
            **call,
        )
        return output


def between(values: Any, num: int, option: str) -> list[Any] | None:
    """One of two captions or classes for each of `num` videos, that of the nearer end; a single one for all."""
    if values is None:
        return None
    first, second = (values, values) if isinstance(values, str | int) else pair(values, option)
    return [first if 2 * i < num - 1 else second for i in range(num)]


def pair(values: Any, option: str) -> tuple[Any, Any]:
    """Two values; raises an `InputError` for any other number."""
    if len(values) != 2:
        raise InputError(f"`{option}`: {len(values)} given for two clips; give one, or one of each")
    return values[0], values[1]
