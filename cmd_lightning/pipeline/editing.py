"""Masked editing: a part of a clip is generated again, and the rest is kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cmd_lightning.errors import InputError
from cmd_lightning.pipeline.clips import Clip, Clips, check_single, clips_of
from cmd_lightning.pipeline.images import Image, fit_image, tensors_of
from cmd_lightning.pipeline.output import CMDPipelineOutput, OutputType, check_output, shown


class Editing(Clips):
    """The part of `CMDPipeline` that edits a part of a clip."""

    @torch.no_grad()
    def edit(
        self,
        video: Clip | Sequence[Clip],
        mask: Image,
        prompt: str | Sequence[str] | None = None,
        class_labels: int | Sequence[int] | None = None,
        output_type: OutputType = "pil",
        **call: Any,
    ) -> CMDPipelineOutput:
        """Generates the white part of a mask again, in all frames.

        The content frame outside the mask and the motion slots that do not affect the mask are fixed while the rest is
        denoised. Pixels outside the mask are those of the clip, resized to the model's size if needed.

        Args:
            video: A clip or several.
            mask: An image of the clip's size, or of the model's: white where to edit, black where to keep.
            prompt: One caption for each clip, which describes the result.
            class_labels: One class id for each clip.
            output_type: "pil", "np" or "pt".
            **call: Other arguments of a call, such as `seeds`, or `strength` to stay close to the clip within the mask.

        Raises:
            InputError: The mask has another size, or no white part, or a call rejects its arguments.
        """
        check_output(output_type, latent=False)
        check_single(call)
        sizes = {tuple(clip.shape[2:]) for clip in clips_of(video, "video")} | {self.size}
        part = self._mask(mask, sizes)
        clips, notes = self._whole(video, "video")
        content, motion = self.encode(clips * 2 - 1)
        edited = F.adaptive_max_pool2d(part[None, None].float(), tuple(content.shape[2:])).bool()
        output: Any = self(  # type: ignore[operator]  # the pipeline's call
            prompt,
            class_labels,
            content=content,
            motion=motion,
            keep={"content": ~edited, "motion": ~self.latent_spec.reaching_into(part)},
            output_type="pt",
            **call,
        )
        made = output.frames.transpose(1, 2)
        output.frames = shown(torch.where(part.to(made.device), made, clips.to(made)), output_type)
        output.warnings = [[*own, *more] for own, more in zip(notes, output.warnings, strict=True)]
        return output

    def _mask(self, mask: Image, sizes: set[tuple[int, ...]]) -> Tensor:
        """The part to edit, `(H, W)` bool in the model's size, of a mask of one of these sizes."""
        if isinstance(mask, np.ndarray) and mask.ndim == 2:
            mask = torch.from_numpy(mask)
        if isinstance(mask, Tensor) and mask.ndim == 2:
            mask = mask.expand(3, -1, -1)
        image = tensors_of(mask, "mask")[0]
        image = image.float() if image.dtype == torch.bool else image
        if tuple(image.shape[1:]) not in sizes:
            height, width = image.shape[1:]
            known = " or ".join(f"{w}x{h}" for h, w in sorted(sizes))
            raise InputError(f"`mask`: {width}x{height} pixels; give one of the clip's size, {known}")
        fitted, _ = fit_image(image, self.size, "mask")
        part = fitted.mean(0) >= 0.5
        if not part.any():
            raise InputError("`mask`: no part of it is white; mark the part to edit in white")
        return part
