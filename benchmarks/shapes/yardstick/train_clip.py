"""Train the small CLIP model of contact sheets: `python -m benchmarks.shapes.yardstick.train_clip`.

A frame alone does not show a direction, so the picture of a clip is its contact sheet.
"""

import dataclasses
import json
import math
import random
from functools import partial

import open_clip
import torch
from open_clip.model import CLIP
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from benchmarks.shapes.yardstick import train
from cmd_lightning.data.plan import stable_hash
from cmd_lightning.metrics.clip_similarity import normalised
from cmd_lightning.shapes.drawing import draw_scene
from cmd_lightning.shapes.painting import render
from cmd_lightning.shapes.scenes import COLOURS, DIRECTIONS, SHAPES, SIZES, Scene, Thing
from cmd_lightning.shapes.sheets import GRID, SheetSimilarity, contact_sheet

BATCH_SIZE = 64
SIZE = 32
"""Side of a frame in the sheet."""

CONTEXT = 48  # tokens of a caption; of the very longest the last word is cut off
MOTIONS = ("still", "slow", "middle", "middle", "fast", "extreme")
CONFIG = {
    "embed_dim": 64,
    "vision_cfg": {
        "image_size": GRID * SIZE,
        "patch_size": SIZE // 2,
        "width": 128,
        "layers": 4,
        "head_width": 32,
        "pool_type": "avg",
    },
    "text_cfg": {"context_length": CONTEXT, "width": 64, "heads": 4, "layers": 2},
}


TOKENIZER = open_clip.SimpleTokenizer(context_length=CONTEXT)


def draw(index: int, seed: int) -> tuple[Tensor, list[str]]:
    """Training batch number `index`: sheets in [0, 1], their captions, then as many captions with one word wrong.

    Every other batch is plain clips alone: then captions differ in few words and each of them counts.
    """
    level = "plain" if index % 2 else "mixed"
    clips, captions, wrong = [], [], []
    for position in range(index * BATCH_SIZE, (index + 1) * BATCH_SIZE):
        chance = random.Random(stable_hash("clip", seed, position))
        scene = draw_scene(seed, position, level=level, motion=chance.choice(MOTIONS), frames=train.FRAMES)
        clips.append(render(scene, train.FRAMES, SIZE))
        captions.append(scene.caption)
        wrong.append(altered(scene, chance).caption)
    return contact_sheet(torch.stack(clips).float() / 255, SIZE), captions + wrong


def altered(scene: Scene, chance: random.Random) -> Scene:
    """The scene with another shape or another direction of its first thing."""
    thing = scene.things[0]
    name = "shape" if thing.path == "still" else chance.choice(["shape", "direction"])
    turns = ("clockwise", "anticlockwise")
    known = SHAPES if name == "shape" else turns if thing.direction in turns else DIRECTIONS
    other = chance.choice([value for value in known if value != getattr(thing, name)])
    return dataclasses.replace(scene, things=(dataclasses.replace(thing, **{name: other}), *scene.things[1:]))


def loss_of(model: CLIP, sheets: Tensor, captions: list[str]) -> Tensor:
    """InfoNCE both ways of sheets `(B, C, h, w)` in [0, 1] and `2B` captions, of which the first half are theirs.

    A sheet is told from all captions, a caption of the first half from all sheets. What another clip's equal caption or
    an equal altered one describes as well is no negative.
    """
    images = model.encode_image(normalised(model.visual, sheets), normalize=True)
    texts = model.encode_text(TOKENIZER(captions).to(sheets.device), normalize=True)
    batch = len(images)
    same = torch.tensor([[a == b for b in captions] for a in captions[:batch]], device=images.device)
    same.fill_diagonal_(False)
    scale = model.logit_scale.clamp(max=math.log(100)).exp()
    logits = (scale * images @ texts.T).masked_fill(same, -math.inf)
    target = torch.arange(batch, device=images.device)
    return (cross_entropy(logits, target) + cross_entropy(logits[:, :batch].T, target)) / 2


def plain_captions() -> dict[str, tuple[str, str, str, str]]:
    """Every caption of moving plain clips: its shape, colour, direction and size."""
    names = [(s, c, d, z) for s in SHAPES for c in COLOURS for d in DIRECTIONS for z in SIZES]
    return {Thing(s, c, z, d, "straight", (0.5, 0.5), 0.0).phrase: (s, c, d, z) for s, c, d, z in names}


@torch.no_grad()
def measure(metric: SheetSimilarity, clips: int = 256, seed: int = 987654321) -> dict[str, float]:
    """How often the nearest of all plain captions is a held-out clip's own, and how often each part of it."""
    captions = plain_captions()
    texts = metric.model.encode_text(metric.tokenizer(list(captions)), normalize=True)
    scenes = [draw_scene(seed, index, frames=train.FRAMES) for index in range(clips)]
    video = torch.stack([render(scene, train.FRAMES, SIZE) for scene in scenes]).float() / 255
    images = metric.model.encode_image(normalised(metric.model.visual, metric.pictures(video).flatten(0, 1)))
    nearest = (images @ texts.T).argmax(1)
    answers = [list(captions.values())[i] for i in nearest]
    truths = [captions[scene.caption] for scene in scenes]
    right = torch.tensor([[a == b for a, b in zip(*pair, strict=True)] for pair in zip(answers, truths, strict=True)])
    parts = dict(zip(("shape", "colour", "direction", "size"), right.double().mean(0).tolist(), strict=True))
    return {"caption": right.all(1).double().mean().item(), "chance": 1 / len(captions), "clips": clips} | parts


def main() -> None:
    """Train, measure, write: weights in half precision with architecture and record as metadata."""
    options = train.arguments(
        "Trains the CLIP model of the procedural world.", SheetSimilarity.WEIGHTS, steps=2000, rate=1e-3
    )
    torch.manual_seed(0)
    model = CLIP(**CONFIG)
    # Of tokens that no caption holds, it stays at zero, which takes no room in an archive.
    nn.init.zeros_(model.token_embedding.weight)
    model, record = train.fit(model, partial(draw, seed=0), loss_of, options)
    record["scores"] = measure(SheetSimilarity(model, TOKENIZER))
    weights = {name: value.half().contiguous() for name, value in model.state_dict().items()}
    save_file(weights, options.out, metadata={"config": json.dumps(CONFIG), "record": json.dumps(record)})
    print("\n".join(f"{name}: {value:.4f}" for name, value in record["scores"].items()))


if __name__ == "__main__":
    main()
