"""Read still images as they are shown, by Pillow."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cmd_lightning.errors import InputError
from cmd_lightning.video_file import VideoError
from cmd_lightning.viewing import PLAIN, over


def read_image(source: str | Path | bytes, background: str = PLAIN.background) -> Tensor:
    """Read a still image as it is shown: uint8 RGB (3, H, W), turned as its EXIF data say.

    Args:
        source: A file in any format that Pillow reads, or its bytes, with 8 or 16 bits or a palette.
        background: What is behind transparent pixels, as in `Viewing`.

    Raises:
        VideoError: It cannot be read.
    """
    from PIL import Image, ImageOps

    name = "image in memory" if isinstance(source, bytes) else str(source)
    try:
        # As a file, not by its name: Pillow (13) maps TIFFs of one value per pixel, and garbles those that EXIF turns.
        with io.BytesIO(source) if isinstance(source, bytes) else open(source, "rb") as file, Image.open(file) as image:
            ImageOps.exif_transpose(image, in_place=True)
            return shown(image, name, background)[0]
    except InputError:
        raise
    except Exception as error:  # of many kinds: Pillow's plugins raise what they run into
        raise VideoError(name, "damaged frames", "not readable as an image") from error


def shown(image: Any, name: str, background: str) -> tuple[Tensor, bool]:
    """A Pillow image as it is shown, uint8 RGB (3, H, W), and whether it is transparent in places.

    Raises:
        VideoError: It has 32 bits per value; the error calls it by the name.
    """
    from PIL import Image

    if image.mode.startswith("I;16"):  # which Pillow would cut off at 255
        image = Image.fromarray(np.rint(np.asarray(image) / 257).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise VideoError(name, "damaged frames", "32 bits per value; save it with 8 or 16")
    transparent = False
    if image.has_transparency_data:
        image = image.convert("RGBA")
        transparent = image.getextrema()[3][0] < 255
    flat = over(image, background) if transparent else image.convert("RGB")
    return torch.from_numpy(np.array(flat)).permute(2, 0, 1), transparent
