"""From the members of a sample of a latent shard to a clip of latents, as `clips` does it for video.

docs/data/latent-shards.md lists the tensors of a sample, of which the axis K is that of the clips of one video. Its
json has "fps" of the clips and "made_by": {"latent_space": fingerprint, "autoencoder": fingerprint or null}.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cmd_lightning.data.clips import LATENT_SUFFIX, BadSample, read_caption, read_facts, read_label

DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}  # that latents are stored in
_AXES = {"moments": 5, "content": 4, "motion": 4}  # of a sample's clips, K included
_TEXT_AXES = {"pooled": 1, "tokens": 2, "mask": 1}
_MOST_HEADER_BYTES = 2**16  # a dozen tensors take one or two thousand; each of a hostile million would be an object


@dataclass(frozen=True)
class Latents:
    """What a sample holds, in the terms of the module; text by the fingerprint of its encoder and the part."""

    clips: dict[str, Tensor]
    text: dict[str, dict[str, Tensor]]
    fps: float
    made_by: dict[str, str | None]

    @property
    def number(self) -> int:
        """K, the clips of the video."""
        return len(next(iter(self.clips.values())))


def read_latents(sample: dict[str, Any], facts: dict[str, Any]) -> Latents:
    """The latents of a sample; `BadSample` if they are missing or damaged, or its facts do not say what made them."""
    if LATENT_SUFFIX not in sample:
        raise BadSample("no latents, `shards encode` makes them")
    tensors = _parse(sample[LATENT_SUFFIX])
    clips = {name: tensors[name] for name in _AXES if name in tensors}
    text: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        kind, _, rest = name.partition(".")
        encoder, _, part = rest.rpartition(".")
        if kind == "text" and part in _TEXT_AXES:
            text.setdefault(encoder, {})[part] = tensor
    if not ("moments" in clips or {"content", "motion"} <= clips.keys()):
        raise BadSample("incomplete latents")
    _check(clips, _AXES)
    for parts in text.values():
        _check(parts, _TEXT_AXES)
    if len({len(clip) for clip in clips.values()}) > 1 or not all("pooled" in parts for parts in text.values()):
        raise BadSample("incomplete latents")
    return Latents(clips, text, *_origin(facts))


def check_finite(clips: dict[str, Tensor]) -> None:
    """Raises BadSample for latents with NaN or infinity in them."""
    if not all(clip.isfinite().all() for clip in clips.values()):
        raise BadSample("latents not finite")


def load_latents(sample: dict[str, Any], draw: int, epoch: int = 0) -> dict[str, Any]:
    """Load clip `epoch % K` of a sample, a `SampleLoader`; the random choices were made when it was encoded."""
    facts = read_facts(sample)
    label = read_label(sample, facts)
    latents = read_latents(sample, facts)
    clip = {name: tensor[epoch % latents.number] for name, tensor in latents.clips.items()}
    check_finite(clip)
    return clip | {
        "text": latents.text,
        "made_by": latents.made_by,
        "caption": read_caption(sample, facts),
        "label": label,
        "key": sample["__key__"],
        "fps": latents.fps,
    }


def _parse(data: bytes) -> dict[str, Tensor]:
    from safetensors.torch import load

    if int.from_bytes(data[:8], "little") > _MOST_HEADER_BYTES:
        raise BadSample("unreadable latents")
    try:
        return load(data)
    except Exception as error:  # the library's, and Python's for unknown types and sizes
        raise BadSample("unreadable latents") from error


def _check(tensors: dict[str, Tensor], axes: dict[str, int]) -> None:
    for name, tensor in tensors.items():
        known = tensor.dtype == torch.bool if name == "mask" else tensor.dtype in DTYPES.values()
        if tensor.ndim != axes[name] or not known or not tensor.numel():
            raise BadSample("misshapen latents")


def _origin(facts: dict[str, Any]) -> tuple[float, dict[str, str | None]]:
    fps, made_by = facts.get("fps"), facts.get("made_by")
    if isinstance(fps, int | float) and not isinstance(fps, bool) and 0 < fps < math.inf and isinstance(made_by, dict):
        space, autoencoder = made_by.get("latent_space"), made_by.get("autoencoder")
        if isinstance(space, str) and isinstance(autoencoder, str | None):
            return float(fps), {"latent_space": space, "autoencoder": autoencoder}
    raise BadSample("unknown origin")
