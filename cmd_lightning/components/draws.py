"""Random numbers of a sample, which depend only on the run's seed, a name, the epoch and the sample's key.

So they stay the same when batches are composed differently, split over processes, or read from latent shards.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence

import torch
from torch import Tensor

_seeds = {"run": 0, "step": -1}
"""The seed of the run, for when `seed_everything` was not called; and the last seed that was set here."""


def normal(shape: Sequence[int], name: str, keys: Sequence[str], time: int | str | Sequence[int]) -> Tensor:
    """Standard normal values `(len(keys), *shape)`, float32 on the CPU.

    Args:
        shape: Shape of one sample.
        name: Purpose of the values; another name gives other values.
        keys: Keys of the samples.
        time: The epoch of the data; one for all samples, or one for each.
    """
    return torch.stack([torch.randn(*shape, generator=generator) for generator in _generators(name, keys, time)])


def uniform(name: str, keys: Sequence[str], time: int | str | Sequence[int]) -> Tensor:
    """Values in [0, 1), `(len(keys),)`, float32 on the CPU; arguments as for `normal`."""
    return torch.cat([torch.rand(1, generator=generator) for generator in _generators(name, keys, time)])


def begin() -> None:
    """Set the seed of a training run that begins: that of `seed_everything`, otherwise that of `torch.manual_seed`."""
    if torch.initial_seed() != _seeds["step"]:  # else torch was not seeded since the last run
        _seeds["run"] = torch.initial_seed()


def seed_step(*position: object) -> None:
    """Seed torch's global generator for a step, from the run's seed and a position in the run."""
    _seeds["step"] = seed_of(*position)
    torch.manual_seed(_seeds["step"])


def seed_of(*position: object) -> int:
    """A seed for torch's generators, derived from the run's seed and a position in the run."""
    text = "/".join(map(str, (os.environ.get("PL_GLOBAL_SEED", _seeds["run"]), *position)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big")


def _generators(name: str, keys: Sequence[str], time: int | str | Sequence[int]) -> list[torch.Generator]:
    times = [time] * len(keys) if isinstance(time, int | str) else time
    return [torch.Generator().manual_seed(seed_of(name, t, key)) for t, key in zip(times, keys, strict=True)]
