"""Batches of clips, and what a stream of them is."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from cmd_lightning.data.index import Shard
from cmd_lightning.errors import InputError

_NUMBERS = {"label": torch.int64, "fps": torch.float32}


class BatchStream(IterableDataset):
    """Batches of one rank, for a `StreamLoader` with any number of workers."""

    seed: int  # of every random choice
    shards: Sequence[Shard]  # that it reads, if any
    _sizes: list[int]  # of the batches of an epoch
    _epoch = _first = 0

    @abstractmethod
    def fingerprint(self, workers: int) -> str:
        """What a number of batches done holds for: with another fingerprint it means other samples."""

    def begin(self, epoch: int, first_batch: int = 0) -> None:
        """Set where the next pass begins: in this epoch, at this batch."""
        self._epoch, self._first = epoch, first_batch

    def count(self, batches: int) -> int:
        """Samples in the first batches of an epoch of this rank."""
        return sum(self._sizes[:batches])

    def __len__(self) -> int:
        """Batches in a whole epoch, the same on every rank, wherever the next pass begins."""
        return len(self._sizes)


def collate(clips: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Batch clips.

    Args:
        clips: Each with caption, key, fps, and tensors by name; if they have it, with label; of latents also "made_by",
            and "text" with tensors by encoder and part.

    Returns:
        The tensors stacked: "video" uint8 (B, C, T, H, W), or latents as they are stored. "caption" and "key" lists,
        "label" int64 (B,), "fps" float32 (B,); of latents also "made_by", a list, and "text" as each clip has it.
    """
    tensors = [{name: value for name, value in clip.items() if isinstance(value, Tensor)} for clip in clips]
    batch = _stack(tensors, clips)
    for name in ("caption", "label", "key", "fps", "made_by"):
        if name in clips[0]:
            values = [clip[name] for clip in clips]
            batch[name] = torch.tensor(values, dtype=_NUMBERS[name]) if name in _NUMBERS else values
    if "text" in clips[0]:
        encoders = {encoder for clip in clips for encoder in clip["text"]}
        batch["text"] = {
            encoder: _stack([clip["text"].get(encoder, {}) for clip in clips], clips) for encoder in sorted(encoders)
        }
    return batch


def _stack(tensors: Sequence[dict[str, Tensor]], clips: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Stacks tensors of the same names; clips are what an error names."""
    shapes = [{name: (*tensor.shape,) for name, tensor in sorted(named.items())} for named in tensors]
    for shape, clip in zip(shapes, clips, strict=True):
        if shape != shapes[0]:
            raise InputError(
                f"data: clip {clips[0]['key']} has {shapes[0]}, clip {clip['key']} {shape}; latents of a batch must be "
                "of one shape, so give shards of one `shards encode`"
            )
    return {name: torch.stack([named[name] for named in tensors]) for name in tensors[0]}
