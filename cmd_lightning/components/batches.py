"""Batches of any DataLoader: required entries, defaults, and the range of float clips."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from cmd_lightning.errors import InputError
from cmd_lightning.latent_space import from_uint8

NEEDS = (
    "a batch is a dictionary with `video` (B, C, T, H, W), uint8 or floats in [-1, 1] or [0, 1], and `caption` or "
    "`label` if the model is conditioned on these; see docs/data/training-on-shards.md"
)
DEFAULT_FPS = 8.0
"""Frames per second of the videos of a model whose data have no `fps`."""

_ROUNDING = 1e-3  # beyond a range, as after resizing or in half precision


def complete(batch: Any, *position: object) -> bool:
    """Give the samples of a batch without keys some that depend on its position.

    Args:
        batch: A batch of a DataLoader; it is changed in place.
        *position: What distinguishes it from other batches, such as rank and number.

    Returns:
        Whether the batch came with keys.

    Raises:
        InputError: The batch is not a dictionary, or has no clips.
    """
    if not isinstance(batch, dict):
        raise InputError(f"data: a batch is a {type(batch).__name__}; {NEEDS}")
    given = "key" in batch
    where = "-".join(map(str, position))
    keys = batch["key"] if given else [f"{where}-{sample}" for sample in range(count_of(batch))]
    batch["key"] = [str(key) for key in (keys.tolist() if isinstance(keys, Tensor) else keys)]
    return given


def count_of(batch: dict[str, Any]) -> int:
    """Number of samples of a batch."""
    for name in ("video", "moments", "content"):
        if name in batch:
            return len(batch[name])
    raise InputError(f"data: a batch has {', '.join(map(str, batch)) or 'nothing'}; {NEEDS}")


def field_of(batch: dict[str, Any], name: str, stage: str) -> Any:
    """The captions or labels of a batch."""
    if name not in batch:
        raise InputError(f"data: a batch has no `{name}`, which the {stage} stage is conditioned on; {NEEDS}")
    return batch[name]


class ClipRange:
    """Converts clips to [-1, 1]: uint8, or floats in one of two ranges.

    Floats are taken to be in [-1, 1] if any is negative, else in [0, 1]; all batches must have the same range.
    """

    def __init__(self) -> None:
        self.lowest: int | None = None

    def pixels(self, video: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """Clips in [-1, 1].

        Args:
            video: `(B, C, T, H, W)`, uint8 or floats.
            dtype: Type of the result.

        Raises:
            InputError: The clips have another shape, type or range, or another range than earlier ones.
        """
        if video.ndim != 5:
            raise InputError(f"data: `video` has the shape {tuple(video.shape)}; {NEEDS}")
        if video.dtype == torch.uint8:
            return from_uint8(video, dtype)
        if not video.is_floating_point():
            raise InputError(f"data: `video` is {video.dtype}; {NEEDS}")
        low, high = (float(bound) for bound in torch.aminmax(video))
        if not (low >= -1 - _ROUNDING and high <= 1 + _ROUNDING):  # false for NaN too
            raise InputError(f"data: `video` has floats from {low:g} to {high:g}; {NEEDS}")
        lowest = -1 if low < -_ROUNDING else 0
        if self.lowest is None:
            self.lowest = lowest
        if lowest < self.lowest:
            raise InputError(
                f"data: `video` has floats from {low:g} to {high:g}, but in earlier batches from 0 to 1; give all "
                "clips in one range, or as uint8"
            )
        clips = video.to(dtype).clamp(self.lowest, 1)
        return clips if self.lowest else clips * 2 - 1
