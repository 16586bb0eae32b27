"""The quality of emoji64: reconstruction of unseen emoji, names of generated videos, motion, memorisation.

    python -m benchmarks.emoji.quality emoji64 --json benchmarks/results/emoji64.json

Every figure is a cell of the result; a call measures the cells that are missing. `benchmarks.emoji.shards` makes the
clips, and `benchmarks.emoji.naming` says which packages name them.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from benchmarks.cells import Cell, add_json, command_line, measure_cells, stamped
from benchmarks.emoji.naming import Emoji, Namer, Originals
from benchmarks.emoji.shards import ROOT
from benchmarks.shapes.quality import STAGES, generate
from cmd_lightning.commands.files import open_model
from cmd_lightning.errors import InputError, program
from cmd_lightning.latent_space import from_uint8, to_uint8
from cmd_lightning.metrics.reconstruction import scores
from cmd_lightning.pipeline import CMDPipeline
from cmd_lightning.provenance import provenance, weights_sha256
from cmd_lightning.zoo import model_folder

CONFIG = Path("configs/emoji64/content.yaml")
SPLITS = ("train", "combinations", "test")
BATCH = 32
LAGS = (1, 4, 8)
"""Frames apart, of the temporal autocorrelation."""


@dataclass(frozen=True)
class Settings:
    """How a result is measured."""

    captions: int = 200  # random captions of the split train
    first_seed: int = 1000  # of the samples, which training never used


class Quality:
    """The cells, each a method that gives plain data."""

    def __init__(self, pipeline: CMDPipeline, settings: Settings, shards: Path) -> None:
        self.pipeline, self.settings, self.shards = pipeline, settings, shards
        pipeline.set_progress_bar_config(disable=True)

    def cells(self) -> dict[str, Callable[[], dict[str, Any]]]:
        """Every cell by name."""
        return {
            "reconstruction": self.reconstruction,
            "names of originals": self.names_of_originals,
            "training captions": partial(self.named, "train"),
            "held-out combinations": partial(self.named, "combinations"),
            "motion": self.motion,
            "neighbours": self.neighbours,
        }

    @cached_property
    def clips(self) -> dict[str, Originals]:
        """The originals of each split."""
        data = yaml.safe_load(CONFIG.read_text())["data"]["init_args"]
        return {split: Originals.of([self.shards / split], data) for split in SPLITS}

    @cached_property
    def namer(self) -> Namer:
        """Names videos after the originals of all splits."""
        captions = [caption for clips in self.clips.values() for caption in clips.captions]
        return Namer(Originals(captions, torch.cat([clips.video for clips in self.clips.values()])))

    def asked(self, split: str) -> list[int]:
        """The originals of a split whose captions are asked for: all, or as many as the settings say."""
        rows = list(range(len(self.clips[split].captions)))
        return sorted(random.Random(0).sample(rows, self.settings.captions)) if split == "train" else rows

    @cached_property
    def samples(self) -> dict[str, tuple[list[int], Tensor]]:
        """By split: which captions were asked for, and their videos."""
        made = {}
        for split in ("train", "combinations"):
            rows = self.asked(split)
            captions = [self.clips[split].captions[row] for row in rows]
            made[split] = rows, generate(self.pipeline, captions, first_seed=self.settings.first_seed)
        return made

    @torch.no_grad()
    def reconstruct(self, video: Tensor) -> Tensor:
        """Through the autoencoder and back, uint8."""
        decoded = [
            self.pipeline.decode(*self.pipeline.autoencoder.encode(from_uint8(part))) for part in video.split(BATCH)
        ]
        return torch.cat([to_uint8(part) for part in decoded])

    def reconstruction(self) -> dict[str, Any]:
        """PSNR of the emoji that are in no other split, and of the better still image, mean or best frame."""
        video = self.clips["test"].video
        result = scores(from_uint8(self.reconstruct(video)), from_uint8(video))
        still = torch.maximum(result["psnr_of_mean_frame"], result["psnr_of_best_frame"])
        gain = result["psnr"] - still
        error = gain.std().item() / len(gain) ** 0.5
        means = {name: value.mean().item() for name, value in result.items()}
        return means | {"num": len(video), "gain": gain.mean().item(), "gain_standard_error": error}

    def names_of_originals(self) -> dict[str, Any]:
        """How often reconstructed clips of the split train get their own name: what generation cannot exceed."""
        rows = self.asked("train")
        clips = self.clips["train"]
        return self.named_right(self.reconstruct(clips.video[rows]), [clips.captions[row] for row in rows])

    def named(self, split: str) -> dict[str, Any]:
        """How often generated videos are named as their captions say."""
        rows, video = self.samples[split]
        return self.named_right(video, [self.clips[split].captions[row] for row in rows])

    def named_right(self, video: Tensor, captions: Sequence[str]) -> dict[str, Any]:
        """The shares of videos with the right name, and with the right skin tone too, with 95 % intervals."""
        found, expected = self.namer.name(video), list(map(Emoji.of, captions))
        pairs = list(zip(found, expected, strict=True))
        named, both = [a.name == b.name for a, b in pairs], [a == b for a, b in pairs]
        return {
            "num": len(pairs),
            "named": sum(named) / len(pairs),
            "named_interval": interval(sum(named), len(pairs)),
            "named_and_tone": sum(both) / len(pairs),
            "named_and_tone_interval": interval(sum(both), len(pairs)),
            "chance": self.namer.chance,
            "wrong": [[captions[i], a.name] for i, (a, b) in enumerate(pairs) if a.name != b.name][:40],
        }

    def motion(self) -> dict[str, Any]:
        """Motion energy and temporal autocorrelation of the samples and of the originals of their captions."""
        rows, video = self.samples["train"]
        real = self.clips["train"].video[rows]
        return {name: moves(clips) for name, clips in (("generated", video), ("originals", real))}

    def neighbours(self) -> dict[str, Any]:
        """Grey levels between first frames: of samples to their originals, of two samples, of two originals."""
        rows, video = self.samples["train"]
        captions = [self.clips["train"].captions[row] for row in rows]
        again = generate(self.pipeline, captions, first_seed=self.settings.first_seed + len(rows))
        originals = self.clips["train"].video
        first = video[:, :, 0].float()
        own, two = ((first - one[:, :, 0].float()).abs().flatten(1).mean(1) for one in (originals[rows], again))
        flat = originals[:, :, 0].flatten(1).float()
        others = torch.cdist(flat[rows], flat, p=1) / flat.shape[1]
        others[torch.arange(len(rows)), rows] = math.inf
        return {
            "sample to its original": own.median().item(),
            "two samples of a caption": two.median().item(),
            "original to the nearest other one": others.min(1).values.median().item(),
        }


def moves(video: Tensor) -> dict[str, Any]:
    """Of clips, uint8 (N, C, T, H, W): grey levels between consecutive frames, and correlations over time.

    A pixel's correlation is that of its deviations from its mean over time; pixels count by their variance.
    """
    frames = video.float()
    deviation = frames - frames.mean(2, keepdim=True)
    variance = deviation.square().mean(2).flatten(1).sum(1)
    result: dict[str, Any] = {"energy": (frames[:, :, 1:] - frames[:, :, :-1]).abs().mean().item()}
    for lag in LAGS:
        product = (deviation[:, :, lag:] * deviation[:, :, :-lag]).mean(2).flatten(1).sum(1)
        result[f"correlation at {lag}"] = (product / variance.clamp_min(1e-6)).mean().item()
    return result


def interval(right: int, number: int) -> list[float]:
    """Wilson's 95 % interval of a share."""
    z = 1.959964
    share, spread = right / number, z * z / number
    middle = (share + spread / 2) / (1 + spread)
    half = z * math.sqrt(share * (1 - share) / number + spread / (4 * number)) / (1 + spread)
    return [max(0.0, middle - half), min(1.0, middle + half)]


def measure(quality: Quality, path: Path, record: Mapping[str, Any]) -> dict[str, Any]:
    """Measures the cells that the file lacks."""
    cells = quality.cells()
    wanted: list[Cell] = [{"cell": name} for name in cells]
    return measure_cells(wanted, lambda cell: [stamped(cells[cell["cell"]]())], record, path, math.inf)


def main() -> int:
    """The command line."""
    parser = command_line(__doc__)
    parser.add_argument("model", help="zoo name or model folder")
    add_json(parser, None)
    parser.add_argument("--shards", type=Path, default=ROOT / "shards", help="(default: %(default)s)")
    for name, value in vars(Settings()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    options = parser.parse_args()
    if not options.shards.is_dir():
        raise InputError(f"--shards {options.shards}: no such folder; run python -m benchmarks.emoji.shards")
    settings = Settings(**{name: getattr(options, name) for name in vars(Settings())})
    pipeline = open_model(options.model)
    sampling = {stage: dict(zip(("steps", "guidance"), pipeline.sampling(stage), strict=True)) for stage in STAGES}
    about = vars(settings) | {"weights": weights_sha256(model_folder(options.model)), "sampling": sampling}
    measure(Quality(pipeline, settings, options.shards), options.json, {"settings": about} | provenance())
    return 0


if __name__ == "__main__":
    program(main)
