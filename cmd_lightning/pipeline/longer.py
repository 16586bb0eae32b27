"""Clips longer than the model's, window by window; each window begins with the last frames of the one before."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from cmd_lightning.errors import InputError
from cmd_lightning.pipeline.clips import Clip, Clips, check_single, clips_of, fit_clips
from cmd_lightning.pipeline.input import draw_seeds
from cmd_lightning.pipeline.output import CMDPipelineOutput, OutputType, check_output, shown


class Longer(Clips):
    """The part of `CMDPipeline` that continues clips."""

    _interrupt: bool

    @torch.no_grad()
    def extend(
        self,
        video: Clip | Sequence[Clip],
        num_frames: int,
        prompt: str | Sequence[str] | None = None,
        class_labels: int | Sequence[int] | None = None,
        overlap: int | None = None,
        strength: float = 0.3,
        seeds: Sequence[int] | None = None,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        output_type: OutputType = "pil",
        **call: Any,
    ) -> CMDPipelineOutput:
        """Continues clips, window by window.

        A window begins with the last `overlap` frames so far. Their motion is held fixed while that of the other frames
        is denoised. If these frames determine the content frame, it is kept, as for models of the first frame;
        other models start from that of a clip whose last frame is repeated, changed by `strength`.

        Args:
            video: A clip or several of one length, at least `overlap`; or an image, which begins the video.
            num_frames: Frames of the result.
            prompt: One caption for each clip.
            class_labels: One class id for each clip.
            overlap: Frames that windows share, from 1 to one less than the model's; by default as many as
                determine the content frame, but at most three quarters of the model's.
            strength: How much to change content frames that the overlap does not determine, from 0 to 1.
            seeds: One seed for each clip, from which each window gets its own.
            generator: Source of the seeds, as in a call.
            output_type: "pil", "np" or "pt".
            **call: Other arguments of a call, such as `guidance_scale`.

        Returns:
            The videos, which begin with the given frames; `content` is that of the last window.

        Raises:
            InputError: A number is out of range, the clips are too short, or a call rejects its arguments.
        """
        check_output(output_type, latent=False)
        check_single(call)
        frames, moments = self.config.video_shape[1], self.latent_spec.motion[1]
        reach = self.autoencoder.content_reach(frames)
        overlap = max(1, min(reach, 3 * frames // 4)) if overlap is None else overlap
        if not 1 <= overlap < frames:
            raise InputError(f"`overlap` {overlap}: give 1 to {frames - 1}, as windows have {frames} frames")
        clips, notes = fit_clips(clips_of(video, "video"), self.size, "video")
        if clips.shape[2] < overlap:
            raise InputError(f"`video`: {clips.shape[2]} frames, fewer than the overlap {overlap}; give more")
        if num_frames <= clips.shape[2]:
            raise InputError(f"`num_frames` {num_frames}: the clip has {clips.shape[2]} already; give more")
        seeds, windows = draw_seeds(seeds, generator, len(clips)), 0
        kept = (torch.arange(moments) < overlap * moments // frames)[:, None]
        while clips.shape[2] < num_frames:
            held = clips[:, :, -overlap:]
            held = torch.cat([held, held[:, :, -1:].expand(-1, -1, frames - overlap, -1, -1)], dim=2)
            content, motion = self.encode(held * 2 - 1)
            window: Any = self(  # type: ignore[operator]  # the pipeline's call
                prompt,
                class_labels,
                content=content,
                motion=motion,
                strength={"content": 0.0 if overlap >= reach else strength, "motion": 1.0},
                keep={"motion": kept},
                seeds=[seed_of_window(seed, windows) for seed in seeds],
                output_type="pt",
                **call,
            )
            clips = torch.cat([clips.to(window.frames), window.frames.transpose(1, 2)[:, :, overlap:]], dim=2)
            windows += 1
            if self._interrupt:
                break
        notes = [[*own, *more] for own, more in zip(notes, window.warnings, strict=True)]
        return CMDPipelineOutput(shown(clips[:, :, :num_frames], output_type), window.content, list(seeds), notes)


def seed_of_window(seed: int, number: int) -> int:
    """The seed of a later window of a video, which differs from the video's seed."""
    return int(torch.randint(2**31, (number + 1,), generator=torch.Generator().manual_seed(seed))[number])


def seam_ratio(video: Tensor, seams: Sequence[int]) -> float:
    """How much more frames change at seams than elsewhere: 1 if a seam cannot be seen.

    Args:
        video: `(B, C, T, H, W)`, in any range.
        seams: Numbers of the first new frames of the windows.

    Returns:
        Mean absolute change from the frame before, at the seams, relative to that of all other frames.
    """
    change = video.float().diff(dim=2).abs().mean(dim=(0, 1, 3, 4))
    at = torch.zeros(len(change), dtype=torch.bool)
    at[[seam - 1 for seam in seams]] = True
    return (change[at].mean() / change[~at].mean()).item()
