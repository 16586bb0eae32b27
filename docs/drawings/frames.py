"""The images in the drawings: a clip, its latents and its reconstructions, by the models of the zoo.

    python docs/drawings/frames.py    # writes frames.png; then run python docs/drawings

Latents have more channels than an image: their first three principal components are shown as red, green and blue.
"""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from cmd_lightning.pipeline import CMDPipeline
from cmd_lightning.shapes.painting import make_clip

FILE = Path(__file__).with_name("frames.png")
TILE = 32
CLIP, TIMES = 14, (0, 4, 8, 12)
"""The clip of the procedural world, and the frames that are shown."""


def components(motion: Tensor) -> Tensor:
    """The principal components `(T, S, 3)` of a motion latent `(D, T, S)`, from -1 to 1."""
    points = motion.flatten(1).T
    points = points - points.mean(0)
    _, _, directions = torch.linalg.svd(points, full_matrices=False)
    shown = points @ directions[:3].T
    return (shown / shown.abs().quantile(0.98)).clamp(-1, 1).unflatten(0, motion.shape[1:])


def image(values: Tensor, width: int = TILE) -> Image.Image:
    """An image of that width from `(3, H, W)` in [-1, 1], by nearest neighbours."""
    pixels = ((values.clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0)
    return Image.fromarray(pixels.numpy()).resize((width, TILE), Image.Resampling.NEAREST)


@torch.no_grad()
def main() -> None:
    """Write the sheet: a row for the clip, then for each model its content frame, its clip and its motion latent."""
    clip, facts = make_clip(0, CLIP, level="mixed", motion="fast", size=TILE)
    video = clip.float()[None] / 127.5 - 1
    rows = [[image(video[0, :, time]) for time in TIMES]]
    for name in ("shapes32", "shapes32paper"):
        autoencoder = CMDPipeline.from_pretrained(name).autoencoder
        content, motion = autoencoder.encode(video)
        decoded = autoencoder.decode(content, motion)
        rows.append([image(content[0]), *(image(decoded[0, :, time]) for time in TIMES)])
        shown = components(motion[0]).permute(2, 0, 1)  # (3, T, S)
        if name == "shapes32":
            rows.append([image(shown[:, time].unflatten(1, (8, 8))) for time in TIMES])
        else:  # eight rows, then eight columns, over time
            rows.append([image(plane.transpose(1, 2), 2 * TILE) for plane in shown.split(8, dim=2)])
    sheet = Image.new("RGB", (5 * TILE, len(rows) * TILE))
    for row, images in enumerate(rows):
        for column, one in enumerate(images):
            sheet.paste(one, (column * one.width, row * TILE))
    sheet.save(FILE, optimize=True)
    print(f"{FILE}: {facts['caption']}")


if __name__ == "__main__":
    main()
