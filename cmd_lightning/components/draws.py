"""Random numbers that belong to a sample: they follow from the run's seed, a name, the epoch and its key alone.

So a batch cut over several processes, put together otherwise, or read from latent shards draws the same.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence

import torch
from torch import Tensor

_seeds = {"run": 0, "step": -1}
"""Where `seed_everything` was not called: the seed of the run; and the last one that we gave torch."""


def normal(shape: Sequence[int], name: str, keys: Sequence[str], time: int | str | Sequence[int]) -> Tensor:
    """Standard normal values `(len(keys), *shape)`, float32 on the CPU.

    Args:
        shape: Of one sample.
        name: What they are for; another name gives other values.
        keys: The samples.
        time: The epoch of the data; one for all samples, or one each.
    """
    return torch.stack([torch.randn(*shape, generator=generator) for generator in _generators(name, keys, time)])


def uniform(name: str, keys: Sequence[str], time: int | str | Sequence[int]) -> Tensor:
    """Values in [0, 1), `(len(keys),)`, float32 on the CPU; arguments as of `normal`."""
    return torch.cat([torch.rand(1, generator=generator) for generator in _generators(name, keys, time)])


def begin() -> None:
    """Take up the seed of a training run that begins: that of `seed_everything`, or else of `torch.manual_seed`."""
    if torch.initial_seed() != _seeds["step"]:  # else nobody has seeded torch since the last run
        _seeds["run"] = torch.initial_seed()


def seed_step(*position: object) -> None:
    """Seed torch's global generator for a step, from the run's own seed and a position in it."""
    _seeds["step"] = seed_of(*position)
    torch.manual_seed(_seeds["step"])


def seed_of(*position: object) -> int:
    """A seed for torch's generators that follows from the run's own seed and a position in it."""
    text = "/".join(map(str, (os.environ.get("PL_GLOBAL_SEED", _seeds["run"]), *position)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big")


def _generators(name: str, keys: Sequence[str], time: int | str | Sequence[int]) -> list[torch.Generator]:
    times = [time] * len(keys) if isinstance(time, int | str) else time
    return [torch.Generator().manual_seed(seed_of(name, t, key)) for t, key in zip(times, keys, strict=True)]
