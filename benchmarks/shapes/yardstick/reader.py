"""Training of the reader of `plain` clips: reader.yaml."""

import random
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.shapes.yardstick.augmentations import FRAMES, blur, compressed, shuffled, spoil_mildly
from benchmarks.shapes.yardstick.training import Targets, Training
from cmd_lightning.data.plan import stable_hash
from cmd_lightning.shapes.convnet import prepare
from cmd_lightning.shapes.drawing import draw_scene
from cmd_lightning.shapes.painting import render
from cmd_lightning.shapes.reader import ANSWERS, Reading, ShapesReader, joint_accuracy

BATCH_SIZE = 32
TRAINING = stable_hash("reader", "train")  # seed of the training batches

KINDS = {
    "true": 0.62,
    "shuffled": 0.12,
    "frozen": 0.05,
    "still": 0.05,
    "noise": 0.04,
    "grey": 0.02,
    "noised": 0.05,
    "blurred": 0.05,
}
"""What is read, and how often it is drawn."""


def draw_clip(kind: str, seed: int, index: int, size: int = 32, motion: str | None = None) -> tuple[Tensor, Reading]:
    """A clip of one of KINDS, uint8 (3, T, size, size), and the right answers."""
    chance = random.Random(stable_hash("kind", seed, index))
    motion = "still" if kind == "still" else motion or chance.choice(["slow", "middle", "fast"])
    scene = draw_scene(seed, index, level="plain", motion=motion, frames=FRAMES)
    torch_chance = torch.Generator().manual_seed(chance.getrandbits(60))
    video, reading = render(scene, FRAMES, size), Reading.of(scene)
    if kind in ("true", "still"):
        return video, reading
    if kind == "frozen":
        frame = chance.randrange(FRAMES)
        return video[:, frame : frame + 1].expand_as(video), Reading(reading.shape, reading.colour, "none")
    if kind == "shuffled":
        order = shuffled(FRAMES, torch_chance)
        return video[:, order], Reading(reading.shape, reading.colour, "none")
    floats = video[None].float() / 255
    normal = torch.randn(floats.shape, generator=torch_chance)
    if kind == "noise":
        uniform = torch.rand(floats.shape, generator=torch_chance)
        floats = uniform if chance.random() < 0.5 else chance.uniform(0.2, 0.7) + chance.uniform(0.1, 0.5) * normal
    elif kind == "grey":
        floats = torch.full_like(floats, chance.random()) + chance.choice([0, 0.02, 0.05]) * normal
    elif kind == "noised":
        floats = floats + chance.uniform(0.45, 1.2) * size / 32 * normal
    else:
        floats = blur(floats, torch.tensor([chance.uniform(0.11, 0.2) * size]))
    return (floats[0].clamp(0, 1) * 255).round().byte(), Reading("none", "none", "none")


def draw(index: int, seed: int = TRAINING) -> tuple[Tensor, Targets]:
    """Training batch number `index`: one clip in 20 rendered at twice the size, one in 256 gone through H.264."""
    chance = random.Random(stable_hash("batch", seed, index))
    clips, readings = [], []
    for position in range(BATCH_SIZE):
        kind = chance.choices(list(KINDS), KINDS.values())[0]
        size = 64 if chance.random() < 0.05 else 32
        clip, reading = draw_clip(kind, seed, index * BATCH_SIZE + position, size)
        if index % 8 == 0 and position == BATCH_SIZE - 1:
            clip = compressed(clip, chance.randrange(17, 30))
        clips.append(prepare(clip[None]))
        readings.append(reading)
    video = spoil_mildly(torch.cat(clips), torch.Generator().manual_seed(chance.getrandbits(60)))
    return video, {
        name: torch.tensor([answers.index(getattr(reading, name)) for reading in readings])
        for name, answers in ANSWERS.items()
    }


class ReaderTraining(Training):
    """The reader, trained on the three answers."""

    WEIGHTS = ShapesReader.WEIGHTS

    def __init__(self, rate: float = 2e-3) -> None:
        super().__init__(ShapesReader(), rate)

    def loss(self, clips: Tensor, targets: Targets) -> Tensor:
        """Sum of the cross entropies of the three answers."""
        return sum(F.cross_entropy(logits, targets[name]) for name, logits in self.network(clips).items())

    def measure(self, num: int = 1000) -> dict[str, float]:
        """Joint accuracy on new `middle` clips, also after H.264, and the share of "none" on invalid plain clips."""
        network, draw_one = self.network, partial(draw_clip, seed=stable_hash("reader", "test"))

        def accuracy(clips: Sequence[Tensor], expected: Sequence[Reading]) -> float:
            return joint_accuracy(network.read(torch.stack(list(clips))), expected[: len(clips)])

        true, expected = zip(*(draw_one("true", index=index, motion="middle") for index in range(num)), strict=True)
        large = [draw_one("true", index=index, size=64, motion="middle")[0] for index in range(num // 2)]
        scores = {"chance": network.chance, "true": accuracy(true, expected)}
        scores["true after H.264"] = accuracy([compressed(clip, 23) for clip in true], expected)
        scores["true at 64"] = accuracy(large, expected)
        for motion in ("slow", "fast", "extreme"):
            pairs = [draw_one("true", index=index, motion=motion) for index in range(num // 2)]
            scores[f"true {motion}"] = accuracy(*zip(*pairs, strict=True))
        for kind in (kind for kind in KINDS if kind != "true"):
            readings = network.read(torch.stack([draw_one(kind, index=index)[0] for index in range(num // 2)]))
            scores[f"none on {kind}"] = sum(reading.none for reading in readings) / len(readings)
        return scores
