"""Training of the classifier behind the shapes features: features.yaml."""

import random

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.shapes.yardstick.augmentations import FRAMES, blur, shuffled
from benchmarks.shapes.yardstick.training import Targets, Training
from cmd_lightning.data.plan import stable_hash
from cmd_lightning.shapes.drawing import draw_scene
from cmd_lightning.shapes.features import CHOICE, PRESENCE, ShapesFeatures
from cmd_lightning.shapes.painting import render
from cmd_lightning.shapes.scenes import SPEEDS, Scene

BATCH_SIZE = 32
TRAINING = stable_hash("features", "train")  # seed of the training batches

PLAY_WEIGHTS = (0.44, 0.08, 0.08, 0.08, 0.08, 0.08, 0.08, 0.08)
"""Probability of each way to play, in the order of CHOICE["play"]."""

STRENGTHS = {"blur": (0.4, 0.8, 1.6, 3.2), "noise": (0.03, 0.08, 0.2, 0.5)}
"""Bounds of the three strengths: sigma in pixels of a 32x32 image, and in shares of the range of values."""

MOVEMENT = ("path", "direction", "change", "pan", "zoom", "motion")
"""What is asked of clips played forward only: other plays hide or change it."""


def played(scene: Scene, play: str, chance: random.Random, size: int = 32) -> Tensor:
    """A scene rendered and played in one of the ways of CHOICE["play"], uint8 (3, T, size, size)."""
    if play == "double speed":
        return render(scene, 2 * FRAMES, size)[:, ::2]
    order = list(range(FRAMES))
    if play == "backward":
        order.reverse()
    elif play == "half speed":
        order = [frame // 2 for frame in order]
    elif play == "shuffled":
        order = shuffled(FRAMES, torch.Generator().manual_seed(chance.getrandbits(60))).tolist()
    elif play == "partly shuffled":
        places = chance.sample(order, chance.randint(3, FRAMES // 2))
        for place, frame in zip(places, places[1:] + places[:1], strict=True):
            order[place] = frame
    elif "frozen" in play:
        run = chance.randint(4, 9) if play == "partly frozen" else chance.randint(12, FRAMES)
        first = chance.randint(0, FRAMES - run)
        order[first : first + run] = [first] * run
    return render(scene, FRAMES, size)[:, order]


def answers_of(scene: Scene, play: str) -> dict[str, list[float]]:
    """For each attribute of the scene what is right: 1 or 0 for each name, or nan where that is not asked."""
    things = scene.things
    there = {
        name: {getattr(thing, name) for thing in things} for name in ("shape", "colour", "texture", "path", "direction")
    }
    spins, grows = any(thing.spin for thing in things), any(thing.growth for thing in things)
    there["change"] = {name for name, has in (("spin", spins), ("growth", grows)) if has}
    there["bar"] = {"bar"} if scene.bar else set()
    there["number"], there["pattern"] = {str(len(things))}, {scene.background.pattern}
    there["pan"], there["zoom"] = {scene.camera.pan}, {CHOICE["zoom"][scene.camera.zoom + 1]}
    there["motion"], there["play"] = {scene.motion}, {play}
    answers = {name: [float(one in there[name]) for one in (PRESENCE | CHOICE)[name]] for name in there}
    unasked = MOVEMENT if play != "forward" else ()
    if scene.motion == "still":  # however it is played, it looks the same
        unasked = ("play",)
    return answers | {name: [float("nan")] * len(answers[name]) for name in unasked}


def draw(index: int, seed: int = TRAINING, clean: bool = False) -> tuple[Tensor, Targets]:
    """Training batch number `index`; clean ones are played forward and not spoilt."""
    chance = random.Random(stable_hash("batch", seed, index))
    clips, rows = [], []
    for position in range(BATCH_SIZE):
        level, motion = chance.choice(["mixed", "mixed", "plain"]), chance.choice(list(SPEEDS))
        scene = draw_scene(seed, index * BATCH_SIZE + position, level=level, motion=motion, frames=FRAMES)
        play = "forward" if clean else chance.choices(CHOICE["play"], PLAY_WEIGHTS)[0]
        clips.append(played(scene, play, chance))
        rows.append(answers_of(scene, play))
    targets = {name: torch.tensor([row[name] for row in rows]) for name in rows[0]}
    video = torch.stack(clips).float() / 255
    sigmas = {}
    for name, bounds in STRENGTHS.items():
        strengths = [0 if clean else chance.choice([0, 0, 0, 1, 2, 3]) for _ in clips]
        drawn = [chance.uniform(*bounds[strength - 1 : strength + 1]) if strength else 0.0 for strength in strengths]
        sigmas[name] = torch.tensor(drawn)
        targets[name] = F.one_hot(torch.tensor(strengths), 4).float()
    if not clean:
        noise = torch.randn(video.shape, generator=torch.Generator().manual_seed(chance.getrandbits(60)))
        video = blur(video, sigmas["blur"]) + noise * sigmas["noise"].view(-1, 1, 1, 1, 1)
        # One in four rounded or a little off in its colours, as saved and generated clips are.
        tint = [chance.uniform(0.96, 1.04) if chance.random() < 0.25 else 1.0 for _ in range(3 * len(video))]
        video = video * torch.tensor(tint).view(-1, 3, 1, 1, 1)
    return video.clamp(0, 1), targets


class FeaturesTraining(Training):
    """The classifier, trained on all attributes."""

    WEIGHTS = ShapesFeatures.WEIGHTS

    def __init__(self, rate: float = 2e-3) -> None:
        super().__init__(ShapesFeatures(), rate)

    def loss(self, clips: Tensor, targets: Targets) -> Tensor:
        """Sum over the attributes of the cross entropies, summed over the names of an attribute of presence."""
        total = clips.new_zeros(())
        for name, logits in self.network.classify(clips).items():
            asked = ~targets[name].isnan().any(dim=1)
            if asked.any():
                truth, logits = targets[name][asked], logits[asked]
                if name in CHOICE:
                    total = total + F.cross_entropy(logits, truth)
                else:
                    total = total + F.binary_cross_entropy_with_logits(logits, truth, reduction="sum") / len(logits)
        return total

    @torch.no_grad()
    def measure(self, batches: int = 32) -> dict[str, float]:
        """Standardises the features; shares of right answers on new clips, next to those of the commonest answer."""
        clean = [draw(index, stable_hash("features", "standard"), clean=True)[0] for index in range(64)]
        self.network.standardise(torch.cat(clean))
        right: dict[str, list[Tensor]] = {}
        truths: dict[str, list[Tensor]] = {}
        for index in range(batches):
            video, targets = draw(index, stable_hash("features", "test"))
            for name, logits in self.network.classify(video).items():
                asked = ~targets[name].isnan().any(dim=1)
                truth, logits = targets[name][asked], logits[asked]
                same = logits.argmax(1) == truth.argmax(1) if name in CHOICE else (logits > 0) == truth.bool()
                right.setdefault(name, []).append(same.float().flatten())
                truths.setdefault(name, []).append(truth)
        scores = {}
        for name in right:
            shares = torch.cat(truths[name]).mean(dim=0)
            commonest = shares.max() if name in CHOICE else torch.maximum(shares, 1 - shares).mean()
            scores[name] = round(torch.cat(right[name]).mean().item(), 4)
            scores[f"{name}, the commonest answer"] = round(commonest.item(), 4)
        return scores
