"""Clips and what a model makes of them, side by side, for a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from cmd_lightning.latent_space import to_uint8
from cmd_lightning.report import Panel
from cmd_lightning.video_encoding import gif_bytes


def strips(
    rows: Mapping[str, Tensor], captions: Sequence[str], texts: Sequence[str], fps: float, scale: int
) -> list[Panel]:
    """A panel for each clip, with the videos of all `rows` from left to right.

    Args:
        rows: Videos or still images of each clip by name, as `CMD.preview` returns them, in [-1, 1].
        captions: Captions of the clips.
        texts: Text below each panel.
        fps: Frames per second.
        scale: Factor by which pixels are enlarged.
    """
    panels = []
    for i, (caption, text) in enumerate(zip(captions, texts, strict=True)):
        video = next(iter(rows.values()))[i]
        cells = [row[i].expand_as(video) for row in rows.values()]
        gap = torch.ones_like(video[..., :1])
        strip = torch.cat([part for cell in cells for part in (cell, gap)][:-1], dim=-1)
        panels.append(Panel(gif_bytes(to_uint8(strip), fps, scale), text, f"{', '.join(rows)}: {caption}"))
    return panels
