"""Images for `CMDPipeline`, brought to the model's size."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from cmd_lightning.errors import InputError
from cmd_lightning.metrics.inputs import covering


def fit_image(image: Tensor, size: tuple[int, int]) -> tuple[Tensor, list[str]]:
    """An image in a model's size: resized, with antialiasing, until it just covers it; the middle is kept.

    Args:
        image: `(3, H, W)` in [-1, 1], of any size.
        size: Height and width of the model in pixels.

    Returns:
        The image `(3, height, width)`, and what was done to it in words; nothing if it has the model's size.

    Raises:
        InputError: It has another shape, or integer values.
    """
    if image.ndim != 3 or len(image) != 3 or not image.numel() or not image.is_floating_point():
        kind = f"{str(image.dtype).removeprefix('torch.')} of shape {tuple(image.shape)}"
        raise InputError(f"`image`: {kind}; give RGB as (3, height, width), floats in [-1, 1]")
    if tuple(image.shape[1:]) == tuple(size):
        return image, []
    fitted = covering((image[None].float() + 1) / 2, size, "bilinear")[0] * 2 - 1
    before, after = (f"{width}x{height}" for height, width in (image.shape[1:], size))
    return fitted, [f"image of {before} pixels: resized and cropped to the model's {after}"]


def fit_images(images: Tensor | Sequence[Tensor], size: tuple[int, int]) -> tuple[Tensor, list[list[str]]]:
    """Images, `(B, 3, H, W)` or a list of `(3, H, W)`, as one tensor of a model's size; see `fit_image`."""
    if not len(images) or (isinstance(images, Tensor) and images.ndim != 4):
        shape = tuple(images.shape) if isinstance(images, Tensor) else "an empty list"
        raise InputError(f"`image`: {shape}; give images of shape (count, 3, height, width), or a list of some")
    fitted, resized = zip(*(fit_image(image, size) for image in images), strict=True)
    return torch.stack(fitted), list(resized)
