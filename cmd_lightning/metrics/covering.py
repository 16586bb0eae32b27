"""covering: pictures at a network's size without changing their proportions."""

from __future__ import annotations

from typing import Literal

from torch import Tensor
from torch.nn.functional import interpolate


def covering(pictures: Tensor, size: tuple[int, int], mode: Literal["bilinear", "bicubic"]) -> Tensor:
    """The centre of pictures at a size, resized with antialiasing so that they just cover it.

    For a square that is what torchvision's `Resize` of the shorter side and `CenterCrop` do, to the pixel.

    Args:
        pictures: `(N, C, h, w)`, float in [0, 1].
        size: Height and width.
        mode: Filter.

    Returns:
        `(N, C, *size)` in [0, 1].
    """
    height, width = pictures.shape[-2:]
    # One side gets its size exactly; the other one, rounded down, is not below it.
    if size[0] * width >= size[1] * height:
        whole = size[0], size[0] * width // height
    else:
        whole = size[1] * height // width, size[1]
    if (height, width) != whole:
        pictures = interpolate(pictures, whole, mode=mode, antialias=True).clamp(0, 1)
    top, left = (round((have - want) / 2) for have, want in zip(whole, size, strict=True))
    return pictures[..., top : top + size[0], left : left + size[1]]
