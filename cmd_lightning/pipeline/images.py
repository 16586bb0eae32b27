"""Images as inputs of `CMDPipeline`, in many formats and sizes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cmd_lightning.errors import InputError
from cmd_lightning.image_io import read_image, shown
from cmd_lightning.resizing import covering

Image = Any
"""One image: a PIL image, the path or URL of a file, an array `(H, W, 3)` or a tensor `(3, H, W)`; arrays and tensors
have floats in [0, 1] or uint8."""


def fit_image(image: Tensor, size: tuple[int, int], option: str = "image") -> tuple[Tensor, list[str]]:
    """An image in a model's size: resized with antialiasing to cover it, then cropped in the centre.

    Args:
        image: `(3, H, W)`, uint8 or floats in [0, 1], of any size.
        size: Height and width of the model in pixels.
        option: Name of the image in error messages.

    Returns:
        The image `(3, height, width)` in [0, 1], and notes on how it was changed; [] if it has the model's size.

    Raises:
        InputError: It has another shape, or other values.
    """
    if image.ndim != 3 or len(image) != 3 or not image.numel():
        raise InputError(
            f"`{option}`: shape {tuple(image.shape)}; give RGB as a tensor (3, H, W) or an array (H, W, 3)"
        )
    if image.dtype == torch.uint8:
        image = image.float() / 255
    elif not image.is_floating_point() or not (image.min() >= 0 and image.max() <= 1):
        kind = str(image.dtype).removeprefix("torch.")
        raise InputError(f"`{option}`: {kind} from {image.min():g} to {image.max():g}; give floats in [0, 1], or uint8")
    if tuple(image.shape[1:]) == tuple(size):
        return image.float(), []
    fitted = covering(image[None].float(), size, "bilinear")[0]
    before, after = (f"{width}x{height}" for height, width in (image.shape[1:], size))
    return fitted, [f"image of {before} pixels: resized and cropped to the model's {after}"]


def fit_images(
    images: Image | Sequence[Image], size: tuple[int, int], option: str = "image"
) -> tuple[Tensor, list[list[str]]]:
    """An image or several, `(B, 3, height, width)` in [0, 1]; several may be a list, an array or a tensor.

    See `fit_image`, also for the notes on each.
    """
    tensors = tensors_of(images, option)
    if not tensors:
        raise InputError(f"`{option}`: an empty list; give at least one image")
    fitted, resized = zip(*(fit_image(image, size, option) for image in tensors), strict=True)
    return torch.stack(fitted), list(resized)


def tensors_of(images: Image | Sequence[Image], option: str = "image") -> list[Tensor]:
    """Images as tensors `(3, H, W)`, with their original sizes and values; `option` is their name in error messages."""
    from PIL import Image as pillow
    from PIL import ImageOps

    if isinstance(images, str) and images.startswith(("http://", "https://")):
        from diffusers.utils import load_image

        images = load_image(images)
    if isinstance(images, pillow.Image):
        return [shown(ImageOps.exif_transpose(images), f"`{option}`", "white")[0]]
    if isinstance(images, str | Path):
        return [read_image(images)]
    if isinstance(images, np.ndarray):
        if images.ndim not in (3, 4):
            raise InputError(f"`{option}`: an array of shape {images.shape}; give (H, W, 3), or (B, H, W, 3)")
        return list(torch.from_numpy(images.reshape(-1, *images.shape[-3:])).permute(0, 3, 1, 2))
    if isinstance(images, Tensor):
        return list(images) if images.ndim == 4 else [images]
    if isinstance(images, Sequence):
        return [image for given in images for image in tensors_of(given, option)]
    raise InputError(
        f"`{option}`: a {type(images).__name__}; give PIL images, paths, URLs, arrays (H, W, 3) or tensors (3, H, W)"
    )
