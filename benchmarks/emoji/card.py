"""Writes the card of emoji64: samples, animated images, the two latents, training and scores.

    python -m benchmarks.emoji.card emoji64

From configs/NAME, the training logs in outputs/NAME, zoo/weights/NAME, benchmarks/results/NAME.json and the shards of
`benchmarks.emoji.shards` it makes zoo/cards/NAME.yaml, the record, and next to it NAME.md with its images. What people
saw is in the card under `seen` and is kept. Captions and seeds of the images were chosen before the model was trained.
"""

from collections.abc import Sequence
from typing import Any

import torch
import yaml
from PIL import Image, ImageDraw
from torch import Tensor

from benchmarks.cells import by_name, command_line, read
from benchmarks.emoji.naming import Originals
from benchmarks.emoji.quality import CONFIG
from benchmarks.emoji.shards import ROOT
from benchmarks.pages import fill
from benchmarks.shapes.card import CARDS, RESULTS, WEIGHTS, make_card, plot_training
from benchmarks.shapes.uses import draw
from cmd_lightning.errors import InputError, program
from cmd_lightning.latent_space import to_uint8
from cmd_lightning.pipeline import CMDPipeline
from cmd_lightning.video_encoding import gif_bytes

CAPTIONS = (
    *("rabbit", "fox", "octopus", "butterfly", "racing car", "rocket", "hamburger", "birthday cake"),
    *("grinning face", "face with tears of joy", "robot", "ghost", "sun", "umbrella with rain drops", "fire", "guitar"),
)
"""Of the grid of samples, all of the split train."""
LICENCE = "LICENSE-DATA.txt"
"""What is known of the licence of the clips, next to the weights."""
HELD_OUT = 6
"""Images of emoji of the split test that are animated, the first ones."""


def samples(pipeline: CMDPipeline, captions: Sequence[str] = CAPTIONS, columns: int = 8) -> Tensor:
    """A grid of videos, uint8 (3, T, H, W)."""
    video = pipeline(list(captions), seeds=range(len(captions)), output_type="pt").frames.transpose(1, 2)
    rows = [torch.cat([*row], dim=-1) for row in to_uint8(2 * video - 1).split(columns)]
    return torch.cat(rows, dim=-2)


def drawings(side: int) -> dict[str, Image.Image]:
    """Images that are no emoji, on white."""
    large = 4 * side
    house, logo, face = (Image.new("RGB", (large, large), "white") for _ in range(3))
    pen = ImageDraw.Draw(house)
    pen.rectangle((large * 0.25, large * 0.45, large * 0.75, large * 0.85), "#f2d7a6", "black", 4)
    pen.polygon([(large * 0.15, large * 0.45), (large * 0.5, large * 0.15), (large * 0.85, large * 0.45)], "#b5442e")
    pen.rectangle((large * 0.43, large * 0.6, large * 0.57, large * 0.85), "#6b4226")
    pen = ImageDraw.Draw(logo)
    pen.rounded_rectangle((large * 0.15, large * 0.15, large * 0.85, large * 0.85), large * 0.15, "#3949ab")
    pen.text((large * 0.5, large * 0.5), "C", "white", anchor="mm", font_size=large // 2)
    pen = ImageDraw.Draw(face)
    pen.ellipse((large * 0.15, large * 0.15, large * 0.85, large * 0.85), "#ffd93b", "black", 4)
    for x in (0.37, 0.63):
        pen.ellipse((large * (x - 0.05), large * 0.35, large * (x + 0.05), large * 0.5), "black")
    pen.arc((large * 0.32, large * 0.42, large * 0.68, large * 0.7), 20, 160, "black", 8)
    images = {"a drawing of a house": house, "a logo": logo, "a drawing of a face": face}
    return {name: image.resize((side, side), Image.Resampling.BOX) for name, image in images.items()}


def animated(pipeline: CMDPipeline, originals: Originals) -> dict[str, Tensor]:
    """Videos (3, T, H, W) in [0, 1] of first frames of emoji that training never saw, and of drawings, by name."""
    images: dict[str, Any] = {
        f"held-out image: {caption}": Image.fromarray(video[:, 0].permute(1, 2, 0).numpy())
        for caption, video in zip(originals.captions[:HELD_OUT], originals.video, strict=False)
    }
    images |= drawings(pipeline.config.video_shape[-1])
    captions = [name.removeprefix("held-out image: ") if ":" in name else "" for name in images]
    made = pipeline(captions, image=list(images.values()), seeds=range(len(images)), output_type="pt").frames
    return {name: video.transpose(0, 1) for name, video in zip(images, made, strict=True)}


def anatomy(pipeline: CMDPipeline, caption: str = CAPTIONS[0]) -> dict[str, Tensor]:
    """The content frame of a sample, its motion latent as an image per frame, and the video, by name."""
    latents = pipeline([caption], seeds=[0], output_type="latent")
    video = (pipeline.decode(latents.content, latents.frames)[0] + 1) / 2
    frames, side = video.shape[1], video.shape[-1]
    content = (latents.content[0][:, None] + 1) / 2
    motion = latents.frames[0].flatten(1)  # D channels at all places and times
    directions = torch.linalg.svd(motion - motion.mean(1, keepdim=True), full_matrices=False).U[:, :3]
    colours = (0.5 + (directions.T @ motion) / 5).clamp(0, 1).unflatten(1, (frames, -1))
    cells = int(colours.shape[-1] ** 0.5)
    large = colours.unflatten(2, (cells, cells)).repeat_interleave(side // cells, 2).repeat_interleave(side // cells, 3)
    return {
        f"{caption}: content frame": content.clamp(0, 1),
        "motion latent, its three main directions as colours": large,
        "video": video.clamp(0, 1),
    }


def page(card: dict[str, Any], result: dict[str, Any], licence: str) -> str:
    """The card for people, from its record and from what `benchmarks.emoji.quality` measured."""
    return fill("emoji/card.md.jinja", card=card, result=result, cells=by_name(result), licence=licence)


def main() -> int:
    """The command line."""
    parser = command_line(__doc__)
    parser.add_argument("name", help="folder of zoo/weights, e.g. emoji64")
    name = parser.parse_args().name
    path, measured, shards = CARDS / f"{name}.yaml", RESULTS / f"{name}.json", ROOT / "shards" / "test"
    if not measured.is_file():
        raise InputError(f"{name}: no {measured}; run benchmarks.emoji.quality first")
    if not shards.is_dir():
        raise InputError(f"{name}: no {shards}; run benchmarks.emoji.shards first")
    result = read(measured)
    pipeline = CMDPipeline.from_pretrained(WEIGHTS / name)
    pipeline.set_progress_bar_config(disable=True)
    card = make_card(name, pipeline, yaml.safe_load(path.read_text()) if path.is_file() else {})
    if result["settings"]["weights"] != card["weights"]:
        raise InputError(f"{measured}: results of other weights; run benchmarks.emoji.quality again")
    path.write_text(yaml.safe_dump(card, sort_keys=False, width=120))
    originals = Originals.of([shards], yaml.safe_load(CONFIG.read_text())["data"]["init_args"])
    with torch.no_grad():
        (CARDS / f"{name}.gif").write_bytes(gif_bytes(samples(pipeline), pipeline.config.fps, 2))
        draw(animated(pipeline, originals), CARDS / f"{name}-animated.png")
        draw(anatomy(pipeline), CARDS / f"{name}-latents.png")
    plot_training(card, CARDS / f"{name}-training.svg")
    (CARDS / f"{name}.md").write_text(page(card, result, (WEIGHTS / name / LICENCE).read_text()))
    print(CARDS / f"{name}.md")
    return 0


if __name__ == "__main__":
    program(main)
