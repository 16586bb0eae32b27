"""Clips put together to a batch."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from cmd_lightning.errors import InputError


def collate(clips: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Batch clips of one loader.

    Args:
        clips: each with caption, label, key, fps, and tensors by name; of latents also "made_by", and "text" with
            tensors by encoder and part.

    Returns:
        The tensors stacked: "video" uint8 (B, C, T, H, W), or latents as they are stored. "caption" and "key" lists,
        "label" int64 (B,), "fps" float32 (B,); of latents also "made_by", a list, and "text" as each clip
        has it.

    Raises:
        InputError: latents of different kinds or shapes are mixed.
    """
    tensors = [{name: value for name, value in clip.items() if isinstance(value, Tensor)} for clip in clips]
    batch = _stack(tensors, clips) | {
        "caption": [clip["caption"] for clip in clips],
        "label": torch.tensor([clip["label"] for clip in clips], dtype=torch.int64),
        "key": [clip["key"] for clip in clips],
        "fps": torch.tensor([clip["fps"] for clip in clips], dtype=torch.float32),
    }
    if "made_by" in clips[0]:
        batch["made_by"] = [clip["made_by"] for clip in clips]
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
