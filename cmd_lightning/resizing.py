"""Resize images to cover a size."""

from __future__ import annotations

from typing import Literal

from torch import Tensor
from torch.nn.functional import interpolate


def covering(images: Tensor, size: tuple[int, int], mode: Literal["bilinear", "bicubic"]) -> Tensor:
    """The centre of images `(N, C, h, w)` in [0, 1], resized with antialiasing until they just cover the size.

    For a square that is what torchvision's `Resize` of the shorter side and `CenterCrop` do, to the pixel.
    """
    height, width = images.shape[-2:]
    # One side gets its size exactly; the other one, rounded down, is not below it.
    if size[0] * width >= size[1] * height:
        whole = size[0], size[0] * width // height
    else:
        whole = size[1] * height // width, size[1]
    if (height, width) != whole:
        images = interpolate(images, whole, mode=mode, antialias=True).clamp(0, 1)
    top, left = (round((have - want) / 2) for have, want in zip(whole, size, strict=True))
    return images[..., top : top + size[0], left : left + size[1]]
