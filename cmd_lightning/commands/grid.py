"""Videos side by side, as one video."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

GAP = 2
"""White pixels between videos."""


def write_grid(paths: Sequence[Path], columns: int, target: Path) -> Path:
    """Writes videos of one size as a grid; the last row may be shorter. Returns the path.

    Args:
        paths: The videos, from left to right and from top to bottom.
        columns: Videos in a row.
        target: File to write; its suffix gives the format, as for `write_video`.
    """
    import torch

    from cmd_lightning.video_encoding import write_video
    from cmd_lightning.video_io import VideoReader, read_video

    videos = [read_video(path) for path in paths]
    channels, frames, height, width = videos[0].shape
    columns = min(columns, len(videos))
    rows = -(-len(videos) // columns)
    size = rows * (height + GAP) - GAP, columns * (width + GAP) - GAP
    grid = torch.full((channels, frames, *size), 255, dtype=torch.uint8)
    for place, video in enumerate(videos):
        top, left = (place // columns) * (height + GAP), (place % columns) * (width + GAP)
        grid[:, :, top : top + height, left : left + width] = video
    write_video(target, grid, VideoReader(paths[0]).fps or 1.0)  # a folder of PNGs has no rate
    return target
