"""Train the small CLIP model of contact sheets on the procedural world's captions.

    python -m benchmarks.yardstick.train_clip --minutes 25

A frame alone does not show a direction, so the picture of a clip is its contact sheet. A call stops after so many
minutes and the next one goes on from its checkpoint; after the last step the weights are tested and written.
"""

import argparse
import dataclasses
import json
import math
import random
import time
from datetime import date
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.model import CLIP
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import cross_entropy

from cmd_lightning.data.draw import draw_scene
from cmd_lightning.data.plan import stable_hash
from cmd_lightning.data.scenes import COLOURS, DIRECTIONS, SHAPES, SIZES, Scene, Thing
from cmd_lightning.data.shapes import render
from cmd_lightning.metrics.clip_similarity import GRID, SheetSimilarity, contact_sheet
from cmd_lightning.provenance import weights_sha256

SIZE, FRAMES = 32, GRID**2
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


def make_batch(seed: int, step: int, number: int) -> tuple[Tensor, list[str], list[str]]:
    """Sheets `(B, C, h, w)` in [0, 1], their captions, and as many captions with one word wrong.

    Every other batch is plain clips alone: then captions differ in few words and each of them counts.
    """
    level = "plain" if step % 2 else "mixed"
    clips, captions, wrong = [], [], []
    for index in range(step * number, (step + 1) * number):
        chance = random.Random(stable_hash("clip", seed, index))
        scene = draw_scene(seed, index, level=level, motion=chance.choice(MOTIONS), frames=FRAMES)
        clips.append(render(scene, FRAMES, SIZE))
        captions.append(scene.caption)
        wrong.append(altered(scene, chance).caption)
    return contact_sheet(torch.stack(clips).float() / 255, SIZE), captions, wrong


def altered(scene: Scene, chance: random.Random) -> Scene:
    """The scene with another shape or another direction of its first thing."""
    thing = scene.things[0]
    name = "shape" if thing.path == "still" else chance.choice(["shape", "direction"])
    turns = ("clockwise", "anticlockwise")
    known = SHAPES if name == "shape" else turns if thing.direction in turns else DIRECTIONS
    other = chance.choice([value for value in known if value != getattr(thing, name)])
    return dataclasses.replace(scene, things=(dataclasses.replace(thing, **{name: other}), *scene.things[1:]))


def contrastive_loss(images: Tensor, texts: Tensor, captions: list[str], scale: Tensor) -> Tensor:
    """InfoNCE both ways; images `(B, d)` and texts `(2B, d)` of length 1, captions those of the texts.

    An image is told from all texts, a text of the first half from all images. What another clip's equal caption or
    an equal altered one describes as well is no negative.
    """
    batch = len(images)
    same = torch.tensor([[a == b for b in captions] for a in captions[:batch]])
    same.fill_diagonal_(False)
    logits = (scale * images @ texts.T).masked_fill(same, -math.inf)
    target = torch.arange(batch)
    return (cross_entropy(logits, target) + cross_entropy(logits[:, :batch].T, target)) / 2


def plain_captions() -> dict[str, tuple[str, str, str, str]]:
    """Every caption of moving plain clips: its shape, colour, direction and size."""
    names = [(s, c, d, z) for s in SHAPES for c in COLOURS for d in DIRECTIONS for z in SIZES]
    return {Thing(s, c, z, d, "straight", (0.5, 0.5), 0.0).phrase: (s, c, d, z) for s, c, d, z in names}


@torch.no_grad()
def retrieval(metric: SheetSimilarity, clips: int = 256, seed: int = 987654321) -> dict[str, float]:
    """How often the nearest of all plain captions is a held-out clip's own, and how often each part of it."""
    captions = plain_captions()
    tokens = metric.tokenizer(list(captions))
    texts = metric.model.encode_text(tokens, normalize=True)
    scenes = [draw_scene(seed, index, frames=FRAMES) for index in range(clips)]
    video = torch.stack([render(scene, FRAMES, SIZE) for scene in scenes]).float() / 255
    images = metric.model.encode_image(metric.normalised(metric.pictures(video).flatten(0, 1)))
    nearest = (images @ texts.T).argmax(1)
    answers = [list(captions.values())[i] for i in nearest]
    truths = [captions[scene.caption] for scene in scenes]
    right = torch.tensor([[a == b for a, b in zip(*pair, strict=True)] for pair in zip(answers, truths, strict=True)])
    parts = dict(zip(("shape", "colour", "direction", "size"), right.double().mean(0).tolist(), strict=True))
    return {"caption": right.all(1).double().mean().item(), "chance": 1 / len(captions), "clips": clips} | parts


def write(model: CLIP, path: Path, seen: set[int], record: dict[str, Any]) -> None:
    """Weights in half precision with architecture and record as metadata.

    Tokens that are not among the `seen` were never trained; as zeros they take no room in an archive.
    """
    weights = {name: value.detach().half().contiguous() for name, value in model.state_dict().items()}
    used = torch.tensor(sorted(seen))
    rows = weights["token_embedding.weight"]
    weights["token_embedding.weight"] = torch.zeros_like(rows).index_copy(0, used, rows[used])
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(weights, path, metadata={"config": json.dumps(CONFIG), "record": json.dumps(record)})


def main() -> None:
    """Train until the minutes or the steps are over."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=25.0, help="of this call (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=3000, help="of the whole training (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=64, help="clips in a batch (default: %(default)s)")
    parser.add_argument("--learning-rate", type=float, default=1e-3, help="at its peak (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of clips and weights (default: %(default)s)")
    parser.add_argument("--checkpoint", type=Path, default=Path("outputs/shapes_clip.ckpt"))
    parser.add_argument("--out", type=Path, default=Path("zoo/weights/shapes_clip.safetensors"))
    options = parser.parse_args()

    torch.set_num_threads(1)
    torch.manual_seed(options.seed)
    model, tokenizer = CLIP(**CONFIG), open_clip.SimpleTokenizer(context_length=CONTEXT)
    metric = SheetSimilarity(model, tokenizer)
    model.train().requires_grad_(True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=options.learning_rate, betas=(0.9, 0.98), weight_decay=0.0)
    step, seconds, seen = 0, 0.0, set[int]()
    if options.checkpoint.exists():
        state = torch.load(options.checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        step, seconds, seen = state["step"], state["seconds"], set(state["tokens"])
        print(f"goes on at step {step}")

    def save() -> None:
        options.checkpoint.parent.mkdir(parents=True, exist_ok=True)
        state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step, "tokens": sorted(seen)}
        torch.save(state | {"seconds": seconds}, options.checkpoint)

    start = mark = time.monotonic()
    while step < options.steps and mark - start < 60 * options.minutes:
        sheets, captions, wrong = make_batch(options.seed, step, options.batch_size)
        tokens = tokenizer(captions + wrong)
        seen.update(tokens.unique().tolist())
        ramp = min(1.0, (step + 1) / 100) * (1 + math.cos(math.pi * step / options.steps)) / 2
        for group in optimizer.param_groups:
            group["lr"] = options.learning_rate * ramp
        images = model.encode_image(metric.normalised(sheets), normalize=True)
        texts = model.encode_text(tokens, normalize=True)
        loss = contrastive_loss(images, texts, captions + wrong, model.logit_scale.exp())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(max=math.log(100))
        step += 1
        seconds, mark = seconds + time.monotonic() - mark, time.monotonic()
        if step % 50 == 0:
            pace = step * options.batch_size / seconds
            print(f"step {step}  loss {loss.item():.3f}  {pace:.0f} clips/s", flush=True)
        if step % 250 == 0:
            save()
            scores = retrieval(SheetSimilarity(model, tokenizer))
            model.train().requires_grad_(True)
            print("  " + "  ".join(f"{name} {value:.3f}" for name, value in scores.items()), flush=True)
    save()
    if step < options.steps:
        print(f"step {step} of {options.steps}: call again to go on")
        return

    record = {
        "clips": step * options.batch_size,
        "seconds": round(seconds),
        "seed": options.seed,
        "date": f"{date.today()}",
    }
    write(model, options.out, seen, record)
    scores = retrieval(SheetSimilarity.from_pretrained(options.out))
    write(model, options.out, seen, record | {"retrieval": scores})
    print(json.dumps(scores | weights_sha256(options.out)))


if __name__ == "__main__":
    main()
