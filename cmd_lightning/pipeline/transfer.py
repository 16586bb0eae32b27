"""New motion for the content of a clip, or another content for the motion of a clip."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from cmd_lightning.errors import InputError
from cmd_lightning.pipeline.clips import Clip, Clips
from cmd_lightning.pipeline.output import CMDPipelineOutput


class Transfer(Clips):
    """The part of `CMDPipeline` that takes the content of one clip and the motion of another."""

    @torch.no_grad()
    def transfer(
        self,
        content_from: Clip | Sequence[Clip] | None = None,
        motion_from: Clip | Sequence[Clip] | None = None,
        prompt: str | Sequence[str] | None = None,
        class_labels: int | Sequence[int] | None = None,
        strength: float = 0.5,
        **call: Any,
    ) -> CMDPipelineOutput:
        """Generates videos with the content of clips, the motion of clips, or both.

        Without `motion_from` the content gets new motion; without `content_from` a new content gets the motion.

        Args:
            content_from: A clip or an image, or several.
            motion_from: A clip, or several.
            prompt: One caption for each video, which describes the result.
            class_labels: One class id for each video.
            strength: How much to change the given motion, from 0 to 1. A motion latent also has some of the look of
                its frames, which is visible at 0; at 1 nothing of the motion is left.
            **call: Other arguments of a call, such as `seeds` or `output_type`.

        Raises:
            InputError: Neither is given, a clip cannot be read, or a call rejects its arguments.

        Warns:
            InputWarning: A clip is resized or shortened.
        """
        if content_from is None and motion_from is None:
            raise InputError("`content_from` and `motion_from`: neither is given; give at least one of them")
        given: dict[str, Any] = {}
        if content_from is not None:
            given["content"] = self._latents(content_from, "content_from")[0]
        if motion_from is not None:
            given |= {"motion": self._latents(motion_from, "motion_from")[1], "strength": {"motion": strength}}
        output: Any = self(prompt, class_labels, **given, **call)  # type: ignore[operator]  # the pipeline's call
        return output
