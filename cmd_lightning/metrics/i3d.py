"""I3D: the action classifier over whose class scores FVD is measured."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cmd_lightning.errors import InputError
from cmd_lightning.metrics.inputs import check_rgb

LEAST_FRAMES, LEAST_SIDE = 9, 193
"""Of a clip, so that after strides of 8 in time and 32 in space the last pooling has its 2x7x7 places."""

MIXED = {
    "Mixed_3b": (64, 96, 128, 16, 32, 32),
    "Mixed_3c": (128, 128, 192, 32, 96, 64),
    "Mixed_4b": (192, 96, 208, 16, 48, 64),
    "Mixed_4c": (160, 112, 224, 24, 64, 64),
    "Mixed_4d": (128, 128, 256, 24, 64, 64),
    "Mixed_4e": (112, 144, 288, 32, 64, 64),
    "Mixed_4f": (256, 160, 320, 32, 128, 128),
    "Mixed_5b": (256, 160, 320, 32, 128, 128),
    "Mixed_5c": (384, 192, 384, 48, 128, 128),
}
"""Widths in each Inception block: 1x1x1; 1x1x1, then 3x3x3; 1x1x1, then 3x3x3; 1x1x1 after pooling."""


def check_clip(video: Tensor) -> None:
    """Reject clips that the I3D cannot read: not `(B, 3, T, H, W)`, too short or too small."""
    if video.ndim != 5:
        raise InputError(f"video {tuple(video.shape)}: give (B, 3, T, H, W)")
    check_rgb(video)
    frames, height, width = video.shape[2:]
    if frames < LEAST_FRAMES:
        raise InputError(f"video of {frames} frames: the I3D needs at least {LEAST_FRAMES}, 16 are usual")
    if min(height, width) < LEAST_SIDE:
        needed = f"the I3D needs sides of at least {LEAST_SIDE}"
        raise InputError(f"video of {width}x{height} pixels: {needed}; let the preset resize it to side=224")


def _spare(x: Tensor, kernel: Sequence[int], stride: Sequence[int]) -> list[int]:
    """What "SAME" padding of TensorFlow adds to time, height and width; the smaller half of it in front."""
    return [max(k - (n % s or s), 0) for n, k, s in zip(x.shape[2:], kernel, stride, strict=True)]


class _Unit(nn.Module):
    """Convolution, batch norm, ReLU."""

    def __init__(self, channels: int, width: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        padding = kernel // 2 if stride == 1 else 0
        self.conv3d = nn.Conv3d(channels, width, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm3d(width, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        if self.conv3d.stride != (1, 1, 1):  # the padding is not symmetric where a side is even
            spare = reversed(_spare(x, self.conv3d.kernel_size, self.conv3d.stride))
            x = F.pad(x, [part for n in spare for part in (n // 2, n - n // 2)])
        return F.relu_(self.bn(self.conv3d(x)))


def _pool(x: Tensor, kernel: tuple[int, int, int], stride: tuple[int, int, int]) -> Tensor:
    """Maximum pooling with "SAME" padding, of which `ceil_mode` is the larger half."""
    return F.max_pool3d(x, kernel, stride, [n // 2 for n in _spare(x, kernel, stride)], ceil_mode=True)


class _Mixed(nn.Module):
    """An Inception block: four branches side by side."""

    def __init__(self, channels: int, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.b0 = _Unit(channels, widths[0], 1)
        self.b1a = _Unit(channels, widths[1], 1)
        self.b1b = _Unit(widths[1], widths[2], 3)
        self.b2a = _Unit(channels, widths[3], 1)
        self.b2b = _Unit(widths[3], widths[4], 3)
        self.b3b = _Unit(channels, widths[5], 1)

    def forward(self, x: Tensor) -> Tensor:
        pooled = F.max_pool3d(x, 3, 1, 1)
        return torch.cat([self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), self.b3b(pooled)], dim=1)


class I3D(nn.Module):
    """Inflated Inception-v1 with 400 classes of Kinetics (Carreira & Zisserman 2017, arXiv 1705.07750).

    Parameters are named as in the public files `rgb_imagenet.pt` and `i3d_pretrained_400.pt`. The epsilon of the batch
    norms is 1e-3 as in the original; `set_batch_norm_eps` gives them another one.

    Examples:
        On the meta device, which computes shapes only; `open_i3d` loads the published weights.

        >>> import torch
        >>> from cmd_lightning.metrics import I3D
        >>> with torch.device("meta"):
        ...     scores = I3D()(torch.zeros(2, 3, 16, 224, 224))
        >>> scores.shape
        torch.Size([2, 400])
    """

    num_features = 400

    def __init__(self) -> None:
        super().__init__()
        self.Conv3d_1a_7x7 = _Unit(3, 64, 7, stride=2)
        self.Conv3d_2b_1x1 = _Unit(64, 64, 1)
        self.Conv3d_2c_3x3 = _Unit(64, 192, 3)
        channels = 192
        for name, widths in MIXED.items():
            self.add_module(name, _Mixed(channels, widths))
            channels = widths[0] + widths[2] + widths[4] + widths[5]
        self.logits = nn.ModuleDict({"conv3d": nn.Conv3d(channels, self.num_features, 1)})

    def trunk(self, video: Tensor) -> Tensor:
        """What is there and where: `(B, 1024, T / 8, H / 32, W / 32)`, rounded up, of clips `(B, 3, T, H, W)`."""
        if video.device.type == "cpu":  # saves an eighth of the time there
            video = video.contiguous(memory_format=torch.channels_last_3d)
        x = _pool(self.Conv3d_1a_7x7(video), (1, 3, 3), (1, 2, 2))
        x = _pool(self.Conv3d_2c_3x3(self.Conv3d_2b_1x1(x)), (1, 3, 3), (1, 2, 2))
        for name in MIXED:
            if name == "Mixed_4b":
                x = _pool(x, (3, 3, 3), (2, 2, 2))
            elif name == "Mixed_5b":
                x = _pool(x, (2, 2, 2), (2, 2, 2))
            x = self.get_submodule(name)(x)
        return x

    def forward(self, video: Tensor) -> Tensor:
        """Class scores of clips, before the softmax.

        Args:
            video: `(B, 3, T, H, W)` in [-1, 1], with T >= 9 and sides >= 193; 224 is usual.

        Returns:
            `(B, 400)`: the mean over time, and over space where sides are above 224.

        Raises:
            InputError: Another shape.
        """
        check_clip(video)
        pooled = F.avg_pool3d(self.trunk(video), (2, 7, 7), stride=1)
        return self.logits["conv3d"](pooled).mean(dim=(2, 3, 4))

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Take in weights, also in the spelling of hassony2's `model_rgb.pth`, also without `num_batches_tracked`.

        Raises:
            InputError: The first entry that is missing, is too many, or has another shape.
        """
        state = {_spelling(name): value for name, value in state_dict.items()}
        for name, own in self.state_dict().items():
            if name not in state and not name.endswith("num_batches_tracked"):
                raise InputError(f"I3D weights: {name} is missing; {EXPECTED}")
            shape = getattr(state.get(name, own), "shape", None)
            if shape != own.shape:
                found = type(state[name]).__name__ if shape is None else tuple(shape)
                raise InputError(f"I3D weights: {name} is {found}, not {tuple(own.shape)}; {EXPECTED}")
        unknown = next((name for name in state if name not in self.state_dict()), None)
        if unknown is not None:
            raise InputError(f"I3D weights: {unknown} has no place; {EXPECTED}")
        return super().load_state_dict(state, strict, assign)


EXPECTED = "give a state dict laid out as i3d_pretrained_400.pt, rgb_imagenet.pt or model_rgb.pth, of 400 classes"


def _spelling(name: str) -> str:
    """The name of an entry in rgb_imagenet.pt, of the one in model_rgb.pth: `mixed_3b.branch_1.0.batch3d` and so on."""
    if not re.match(r"conv3d_\d|mixed_\d", name):
        return name
    name = name.replace("conv3d_0c_1x1", "logits").replace("batch3d", "bn")
    name = re.sub(
        r"branch_(\d)(?:\.(\d))?", lambda found: f"b{found[1]}{'ab'[int(found[2])] if found[2] else ''}", name
    )
    return name if name.startswith("logits") else name[0].upper() + name[1:]
