"""Uses of the two latents, as images for the card of an included model; and how visible seams of long clips are.

    python -m benchmarks.shapes.uses shapes32

Writes zoo/cards/NAME-uses.png, a row for each video with time from left to right, and the seams of longer clips into
benchmarks/results/NAME_uses.json; a call measures the overlaps that are missing. Captions and seeds were not chosen.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.cells import command_line, measure_cells, save, written
from benchmarks.shapes.quality import clips
from cmd_lightning.commands.files import open_model
from cmd_lightning.errors import program
from cmd_lightning.pipeline import CMDPipeline
from cmd_lightning.pipeline.longer import seam_ratio
from cmd_lightning.provenance import provenance, weights_sha256
from cmd_lightning.zoo import WEIGHTS

CARDS, RESULTS = Path("zoo/cards"), Path("benchmarks/results")
FIRST, SECOND = "a red circle moves left", "a blue square moves right"
WINDOWS, NUM = 3, 64
OVERLAPS = (1, 4, 8)


def rows(pipeline: CMDPipeline) -> dict[str, Tensor]:
    """A video `(3, T, H, W)` in [0, 1] for each row of the image, by what it shows."""
    pipeline.set_progress_bar_config(disable=True)
    call: dict[str, Any] = {"output_type": "pt"}
    first, second = pipeline([FIRST, SECOND], seeds=[0, 1], **call).frames
    frames, height, width = len(first), *first.shape[2:]
    down = pipeline.transfer(first, prompt="a red circle moves down", seeds=[4], **call).frames
    mask = torch.zeros(height, width)
    mask[height // 4 : height - height // 16] = 1
    found = {
        f"A: {FIRST}": [first],
        f"B: {SECOND}": [second],
        "image to video: first frame of A, moves down": pipeline(
            "a red circle moves down", image=first[0], seeds=[5], **call
        ).frames,
        "content of A, new motion: moves down": down,
        "content of A, motion of B (strength 0.5)": pipeline.transfer(
            first, second, "a red circle moves right", seeds=[2], **call
        ).frames,
        "the same as it is (strength 0)": pipeline.transfer(
            first, second, "a red circle moves right", strength=0, **call
        ).frames,
        "contents from A to B, a quarter each": pipeline.interpolate(first, second, (FIRST, SECOND), **call).frames,
        "motions from A to the third row, a quarter each": pipeline.interpolate(
            first, down[0], (FIRST, "a red circle moves down"), stage="motion", **call
        ).frames,
        "A, continued": pipeline.extend(first, 2 * frames, FIRST, seeds=[0], **call).frames,
        "B within a mask: a green circle moves right": pipeline.edit(
            second, mask, "a green circle moves right", seeds=[0], **call
        ).frames,
        "B to video (strength 0.6): a green square moves right": pipeline(
            "a green square moves right", video=second, strength=0.6, seeds=[1], **call
        ).frames,
    }
    named = [
        (f"{name}{f' ({i + 1})' if len(videos) > 1 else ''}", video)
        for name, videos in found.items()
        for i, video in enumerate(videos)
    ]
    return {name: video.transpose(0, 1) for name, video in named}


def draw(videos: dict[str, Tensor], path: Path, every: int = 2, scale: int = 2) -> None:
    """Writes the image: the name of a video above its frames, of which every second one is shown."""
    from PIL import Image, ImageDraw

    line = 14
    strips = {name: torch.cat([*video[:, ::every].unbind(1)], dim=2) for name, video in videos.items()}
    height = scale * next(iter(strips.values())).shape[1] + line
    sheet = Image.new("RGB", (scale * max(strip.shape[2] for strip in strips.values()), height * len(strips)), "white")
    text = ImageDraw.Draw(sheet)
    for number, (name, strip) in enumerate(strips.items()):
        frames = Image.fromarray((strip * 255).round().byte().permute(1, 2, 0).numpy())
        text.text((2, number * height), name, "black", font_size=11)
        sheet.paste(
            frames.resize((scale * frames.width, scale * frames.height), Image.Resampling.NEAREST),
            (0, number * height + line),
        )
    sheet.save(path)


def seams(pipeline: CMDPipeline, overlap: int) -> dict[str, float]:
    """Change at the seams relative to that of inner frames, of plain captions; of real clips in the same places."""
    pipeline.set_progress_bar_config(disable=True)
    scenes, real = clips(pipeline, NUM, level="plain")
    captions, frames = [scene.caption for scene in scenes], pipeline.config.video_shape[1]
    step = frames - overlap
    parts: list[Tensor] = []
    for start in range(0, NUM, 16):
        texts, seeds = captions[start : start + 16], range(start, start + 16)
        made = pipeline(texts, seeds=seeds, output_type="pt").frames
        length = frames + (WINDOWS - 1) * step
        parts.append(pipeline.extend(made, length, texts, overlap=overlap, seeds=list(seeds), output_type="pt").frames)
    video = torch.cat(parts).transpose(1, 2)
    places = [frames + number * step for number in range(WINDOWS - 1)]
    return {"ratio": seam_ratio(video, places), "ratio of real clips": seam_ratio(real / 255, [frames // 2])}


def measure(name: str, overlaps: Sequence[int] = OVERLAPS) -> None:
    """Draws the image of a model and measures its seams."""
    pipeline = open_model(str(WEIGHTS / name))
    draw(rows(pipeline), CARDS / f"{name}-uses.png")
    settings = {"model": name, "weights": weights_sha256(WEIGHTS / name), "captions": NUM, "windows": WINDOWS}
    cells = [{"cell": "seam", "overlap": overlap} for overlap in overlaps]
    record = {"settings": settings} | provenance()
    path = RESULTS / f"{name}_uses.json"
    if not path.exists():  # the card shows the image before any seam is measured
        save(written(record | {"rows": []}), path)
    measure_cells(cells, lambda cell: [seams(pipeline, cell["overlap"])], record, path)


def main() -> int:
    """The command line."""
    parser = command_line(__doc__)
    parser.add_argument("name", help="folder of zoo/weights, e.g. shapes32")
    measure(parser.parse_args().name)
    return 0


if __name__ == "__main__":
    program(main)
