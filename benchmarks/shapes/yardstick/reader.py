"""Training of the reader of `plain` clips: reader.yaml."""

import random

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
TRAINING = stable_hash("reader", "train")
"""Seed of the training batches."""

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


def measure(network: ShapesReader, seed: int, num: int = 1000) -> dict[str, float]:
    """Joint accuracy on new `middle` clips, also after H.264, and the share of "none" on what is no plain clip."""
    pairs = [draw_clip("true", seed, index, motion="middle") for index in range(num)]
    expected = [reading for _, reading in pairs]
    true = torch.stack([clip for clip, _ in pairs])
    scores = {"true": joint_accuracy(network.read(true), expected)}
    coded = torch.stack([compressed(clip, 23) for clip in true])
    scores["true after H.264"] = joint_accuracy(network.read(coded), expected)
    large = torch.stack([draw_clip("true", seed, index, 64, "middle")[0] for index in range(num // 2)])
    scores["true at 64"] = joint_accuracy(network.read(large), expected[: num // 2])
    for motion in ("slow", "fast", "extreme"):
        pairs = [draw_clip("true", seed, index, motion=motion) for index in range(num // 2)]
        readings = network.read(torch.stack([clip for clip, _ in pairs]))
        scores[f"true {motion}"] = joint_accuracy(readings, [reading for _, reading in pairs])
    for kind in KINDS:
        if kind != "true":
            clips = torch.stack([draw_clip(kind, seed, index)[0] for index in range(num // 2)])
            scores[f"none on {kind}"] = sum(reading.none for reading in network.read(clips)) / len(clips)
    return scores


class ReaderTraining(Training):
    """The reader, trained on the three answers.

    Args:
        rate: Learning rate at its peak.
    """

    WEIGHTS = ShapesReader.WEIGHTS

    def __init__(self, rate: float = 2e-3) -> None:
        super().__init__(ShapesReader(), rate)

    def loss(self, clips: Tensor, targets: Targets) -> Tensor:
        """Sum of the cross entropies of the three answers."""
        return sum(F.cross_entropy(logits, targets[name]) for name, logits in self.network(clips).items())

    def measure(self) -> dict[str, float]:
        """Accuracies of the reader, next to that of a guess."""
        return {"chance": self.network.chance} | measure(self.network, stable_hash("reader", "test"))
