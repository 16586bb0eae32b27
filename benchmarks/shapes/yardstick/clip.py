"""Training of the small CLIP model of contact sheets: clip.yaml.

A frame alone does not show a direction, so the image of a clip is its contact sheet.
"""

import dataclasses
import itertools
import json
import math
import random
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.model import CLIP
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from benchmarks.shapes.yardstick.augmentations import FRAMES
from benchmarks.shapes.yardstick.training import Training
from cmd_lightning.data.plan import stable_hash
from cmd_lightning.metrics.clip_similarity import normalised
from cmd_lightning.shapes.drawing import draw_scene
from cmd_lightning.shapes.painting import render
from cmd_lightning.shapes.scenes import COLOURS, DIRECTIONS, SHAPES, SIZES, Scene, Thing
from cmd_lightning.shapes.sheets import GRID, SheetSimilarity, contact_sheet

BATCH_SIZE = 64
TRAINING = 0  # seed of the training batches
SIZE = 32  # side of a frame in the sheet

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


def draw(index: int, seed: int = TRAINING) -> tuple[Tensor, list[str]]:
    """Training batch number `index`: sheets in [0, 1], their captions, then as many captions with one word wrong.

    Every other batch is plain clips alone: then captions differ in few words and each of them counts.
    """
    level = "plain" if index % 2 else "mixed"
    clips, captions, wrong = [], [], []
    for position in range(index * BATCH_SIZE, (index + 1) * BATCH_SIZE):
        chance = random.Random(stable_hash("clip", seed, position))
        scene = draw_scene(seed, position, level=level, motion=chance.choice(MOTIONS), frames=FRAMES)
        clips.append(render(scene, FRAMES, SIZE))
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


class ClipTraining(Training):
    """The CLIP model, trained to find captions and sheets by each other."""

    WEIGHTS = SheetSimilarity.WEIGHTS

    def __init__(self, rate: float = 1e-3) -> None:
        super().__init__(CLIP(**CONFIG), rate)
        # Of tokens that no caption holds, it stays at zero, which takes no room in an archive.
        nn.init.zeros_(self.network.token_embedding.weight)

    def loss(self, clips: Tensor, targets: list[str]) -> Tensor:
        """InfoNCE both ways of sheets `(B, C, h, w)` in [0, 1] and `2B` captions, of which the first half are theirs.

        A sheet is classified among all captions, a caption of the first half among all sheets. A sheet that another
        clip's equal caption, or an equal altered one, describes as well is not a negative.
        """
        images = self.network.encode_image(normalised(self.network.visual, clips), normalize=True)
        texts = self.network.encode_text(TOKENIZER(targets).to(clips.device), normalize=True)
        batch = len(images)
        same = torch.tensor([[a == b for b in targets] for a in targets[:batch]], device=images.device)
        same.fill_diagonal_(False)
        scale = self.network.logit_scale.clamp(max=math.log(100)).exp()
        logits = (scale * images @ texts.T).masked_fill(same, -math.inf)
        target = torch.arange(batch, device=images.device)
        return (cross_entropy(logits, target) + cross_entropy(logits[:, :batch].T, target)) / 2

    @torch.no_grad()
    def measure(self, clips: int = 256) -> dict[str, float]:
        """How often the nearest of all captions of moving plain clips is a held-out clip's own, and each part of it."""
        metric = SheetSimilarity(self.network, TOKENIZER)
        names = list(itertools.product(SHAPES, COLOURS, DIRECTIONS, SIZES))
        captions = {Thing(s, c, z, d, "straight", (0.5, 0.5), 0.0).phrase: (s, c, d, z) for s, c, d, z in names}
        texts = self.network.encode_text(TOKENIZER(list(captions)), normalize=True)
        scenes = [draw_scene(987654321, index, frames=FRAMES) for index in range(clips)]
        video = torch.stack([render(scene, FRAMES, SIZE) for scene in scenes]).float() / 255
        images = self.network.encode_image(normalised(self.network.visual, metric.images(video).flatten(0, 1)))
        answers = [list(captions.values())[i] for i in (images @ texts.T).argmax(1)]
        pairs = zip(answers, (captions[scene.caption] for scene in scenes), strict=True)
        right = torch.tensor([[a == b for a, b in zip(*pair, strict=True)] for pair in pairs])
        parts = dict(zip(("shape", "colour", "direction", "size"), right.double().mean(0).tolist(), strict=True))
        return {"caption": right.all(1).double().mean().item(), "chance": 1 / len(captions), "clips": clips} | parts

    def save(self, path: Path, record: dict[str, Any]) -> None:
        """As for `Training`; the architecture is metadata too."""
        weights = {name: value.half().contiguous() for name, value in self.network.state_dict().items()}
        save_file(weights, path, metadata={"config": json.dumps(CONFIG), "record": json.dumps(record)})
