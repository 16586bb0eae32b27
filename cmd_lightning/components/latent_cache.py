"""Latents of training clips, kept in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor


class LatentCache:
    """Keeps the latents of each clip, by its key and in half precision, so that later epochs encode nothing."""

    def __init__(self) -> None:
        self._kept: dict[str, tuple[Tensor, ...]] = {}

    def latents(self, keys: Sequence[str], encode: Callable[[], Iterable[Tensor | None]]) -> list[Tensor]:
        """The latents of the clips of a batch, on the CPU; from `encode` unless all of them are kept.

        The first epoch uses the same half-precision values, so that a resumed run does too. Values that are not finite
        are not kept: they are an error of this step, which must not be repeated in every epoch.

        Args:
            keys: Keys of the clips.
            encode: Returns latents of the batch, `(B, ...)` each; None is left out.
        """
        if not all(key in self._kept for key in keys):
            exact = [latent for latent in encode() if latent is not None]
            halves = [latent.half().cpu() for latent in exact]
            if not all(latent.isfinite().all() for latent in halves):
                return exact
            self._kept.update(zip(keys, zip(*halves, strict=True), strict=True))
        return [torch.stack(clips) for clips in zip(*(self._kept[key] for key in keys), strict=True)]
