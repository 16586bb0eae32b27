"""SheetSimilarity: CLIP similarity of whole clips, seen as contact sheets, in the procedural world."""

from __future__ import annotations

import json
from pathlib import Path
from typing import ClassVar, Self

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from cmd_lightning.errors import InputError
from cmd_lightning.metrics.clip_similarity import CLIPSimilarity
from cmd_lightning.provenance import sha256
from cmd_lightning.shapes.saved_network import saved_weights
from cmd_lightning.zoo import WEIGHTS

GRID = 4
"""Frames along a side of a contact sheet."""


def contact_sheet(video: Tensor, size: int = 32) -> Tensor:
    """Sixteen frames of each clip, evenly spaced from the first to the last, in rows of four: time as an image.

    Clips are `(B, C, T, H, W)` in [0, 1] with T >= 16, sheets `(B, C, 4 * size, 4 * size)`.
    """
    batch, channels, frames = video.shape[:3]
    if frames < GRID**2:
        raise InputError(f"video of {frames} frames: a contact sheet needs at least {GRID**2}")
    picked = torch.linspace(0, frames - 1, GRID**2).round().long()
    small = video[:, :, picked].transpose(1, 2).flatten(0, 1)
    if small.shape[-2:] != (size, size):
        small = interpolate(small, (size, size), mode="bilinear", antialias=True)
    cells = small.view(batch, GRID, GRID, channels, size, size)
    return cells.permute(0, 3, 1, 4, 2, 5).reshape(batch, channels, GRID * size, GRID * size)


class SheetSimilarity(CLIPSimilarity):
    """Cosine of each clip's contact sheet with its caption, averaged over clips.

    A CLIP model that sees single frames cannot tell a clip from its reversal. One that was trained on contact sheets
    can, and is a stock open_clip model all the same; `from_pretrained` opens the one trained on the procedural world.
    Its cosines mean something on videos and captions of that world alone.
    """

    WEIGHTS: ClassVar[str] = "shapes_clip.safetensors"

    @classmethod
    def from_pretrained(cls, path: str | Path | None = None) -> Self:
        """Open weights with their architecture in the file's metadata; without a path, the ones that ship."""
        from open_clip import SimpleTokenizer
        from open_clip.model import CLIP

        path = Path(WEIGHTS / cls.WEIGHTS if path is None else path)
        with saved_weights(path, "a CLIP model of contact sheets", "clip.yaml") as (metadata, weights):
            model = CLIP(**json.loads(metadata["config"]))
            model.load_state_dict(weights)
        metric = cls(model, SimpleTokenizer(context_length=model.context_length))
        metric.name = path.stem
        metric.origin |= {"pretrained": path.name, "sha256": sha256(path)}
        return metric

    def images(self, video: Tensor) -> Tensor:
        """The contact sheet of each clip, `(B, 1, C, h, w)`."""
        return contact_sheet(video)[:, None]
