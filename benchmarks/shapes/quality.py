"""The quality of a model of the procedural world: reconstruction, generation, and failures.

    python -m benchmarks.shapes.quality shapes32 --recipe configs/shapes32/content.yaml --json RESULTS.json

Every figure is a cell of the result, measured on held-out clips (split "test" of seed 0, all combinations of shape,
colour and direction) and written at once; a call measures the cells that are missing. `--cells` chooses some.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from benchmarks.cells import Cell, add_json, command_line, measure_cells
from cmd_lightning.commands.files import open_model
from cmd_lightning.data.plan import stable_hash
from cmd_lightning.errors import InputError, program
from cmd_lightning.latent_space import from_uint8, to_uint8
from cmd_lightning.metrics.content_naturalness import ContentNaturalness
from cmd_lightning.metrics.frechet import frechet_distance_from_features
from cmd_lightning.metrics.kernel import kernel_distance
from cmd_lightning.metrics.reconstruction import scores
from cmd_lightning.pipeline import CMDPipeline
from cmd_lightning.provenance import provenance, weights_sha256
from cmd_lightning.shapes.datamodule import ShapesDataModule
from cmd_lightning.shapes.drawing import draw_scene
from cmd_lightning.shapes.features import ShapesFeatures
from cmd_lightning.shapes.neighbours import find_copies, thumbnails
from cmd_lightning.shapes.painting import render
from cmd_lightning.shapes.reader import Reading, ShapesReader, joint_accuracy
from cmd_lightning.shapes.scenes import ALIGNMENTS, SPEEDS, Scene
from cmd_lightning.zoo import WEIGHTS, model_folder

BATCH = 32
STAGES = ("content", "motion")
FAILURES = [("motion", motion) for motion in SPEEDS] + [("alignment", alignment) for alignment in ALIGNMENTS]
"""What the curves of "where it fails" run over; alignments at `middle` speed and among three shapes."""


@dataclass(frozen=True)
class Settings:
    """How a result is measured."""

    num: int = 256  # held-out clips, or captions, of the headline figures
    curve_num: int = 64  # the same for each point of a curve
    curve_steps: int = 25  # of either stage for each point of a curve; headline figures take the model's own
    mixed_num: int = 1024  # clips of the distances of mixed captions
    bank: int = 40_000  # training clips, from the first on, among which neighbours are looked for


class Quality:
    """The cells, each a method that gives plain data; `recipe` is the config that trained the content model."""

    def __init__(self, pipeline: CMDPipeline, settings: Settings, recipe: Path) -> None:
        self.pipeline, self.settings, self.recipe = pipeline, settings, recipe
        pipeline.set_progress_bar_config(disable=True)
        self.reader, self.features = ShapesReader.from_pretrained(), ShapesFeatures.from_pretrained()

    def cells(self) -> dict[str, Callable[[], Any]]:
        """Every cell by name, the cheap ones first."""
        return {
            "reader": self.reader_on_real_clips,
            "content frames": self.content_frames,
            **{f"reconstruction/{value}": partial(self.reconstruction, **{key: value}) for key, value in FAILURES},
            "plain captions": self.plain_captions,
            **{f"generation/{value}": partial(self.generation, **{key: value}) for key, value in FAILURES},
            **{f"mixed captions/{motion}": partial(self.mixed_captions, motion) for motion in ("middle", "extreme")},
        }

    def reader_on_real_clips(self) -> dict[str, float]:
        """What the reader makes of the clips themselves and of their reconstructions: the ceiling of generation."""
        scenes, video = clips(self.pipeline, self.settings.num, level="plain")
        expected = list(map(Reading.of, scenes))
        return {
            "true clips": joint_accuracy(self.reader.read(video), expected),
            "reconstructions": joint_accuracy(self.reader.read(self.reconstruct(video)), expected),
            "chance": self.reader.chance,
        }

    @torch.no_grad()
    def content_frames(self) -> dict[str, float]:
        """How natural the content frames of plain and of mixed clips are, and all frames of these clips."""
        naturalness = ContentNaturalness()
        for level in ("plain", "mixed"):
            _, video = clips(self.pipeline, self.settings.num, level=level)
            for part in video.split(BATCH):
                content = self.pipeline.autoencoder.encode_content(from_uint8(part).to(self.pipeline.device))
                naturalness.update(to_uint8(content).cpu(), real=False)
            naturalness.update(video.transpose(1, 2).flatten(0, 1), real=True)
        return {name: value.item() for name, value in naturalness.compute().items()}

    def reconstruction(self, **options: Any) -> dict[str, float]:
        """PSNR and SSIM of mixed clips compared with still images, and the gain over the better of these."""
        _, video = clips(self.pipeline, self.settings.num, level="mixed", **options)
        rows = [scores(from_uint8(self.reconstruct(part)), from_uint8(part)) for part in video.split(BATCH)]
        result = {name: torch.cat([row[name] for row in rows]) for name in rows[0]}
        floor = torch.maximum(result["psnr_of_mean_frame"], result["psnr_of_best_frame"])
        means = {name: value.mean().item() for name, value in result.items()}
        error = (result["psnr"] - floor).std().item() / len(floor) ** 0.5
        return means | {"gain": means["psnr"] - floor.mean().item(), "gain_standard_error": error}

    def plain_captions(self) -> dict[str, Any]:
        """Videos of held-out plain captions: are they what the caption says, spread as real ones, and new?"""
        scenes, real = clips(self.pipeline, self.settings.num, level="plain")
        video = generate(self.pipeline, [scene.caption for scene in scenes])
        readings, expected = self.reader.read(video), list(map(Reading.of, scenes))
        result: dict[str, Any] = {"chance": self.reader.chance, "none": sum(r.none for r in readings) / len(readings)}
        for name, chosen in (("all", None), ("seen", True), ("unseen", False)):
            rows = [i for i, scene in enumerate(scenes) if chosen is None or scene.seen == chosen]
            got, right = [readings[i] for i in rows], [expected[i] for i in rows]
            result[name] = {"num": len(rows), "joint": joint_accuracy(got, right), **answered(got, right)}
        result["start positions"] = {"generated": spread(first_positions(video)), "real": spread(first_positions(real))}
        result["copies"] = self.copies_in(video)
        return result

    def generation(self, num: int | None = None, level: str = "mixed", **options: Any) -> dict[str, Any]:
        """Distances of clips that were reconstructed, had their motion generated, or were generated whole."""
        options |= {"num": num or self.settings.curve_num, "level": level}
        scenes, video = clips(self.pipeline, **options)
        _, other = clips(self.pipeline, split="val", **options)
        captions, steps = [scene.caption for scene in scenes], self.settings.curve_steps
        videos = {
            "real": video,
            "reconstruction": self.reconstruct(video),
            "generated motion": generate(self.pipeline, captions, steps, of=video),
            "generated": generate(self.pipeline, captions, steps),
        }
        return self.distances(videos, other)

    def distances(self, videos: Mapping[str, Tensor], real: Tensor) -> dict[str, dict[str, float]]:
        """Shapes Fréchet and kernel distance of each set of clips to the real ones."""
        reference, found = features_of(self.features, real), {}
        for name, video in videos.items():
            own = features_of(self.features, video)
            found[name] = {
                "shapes_frechet_distance": float(frechet_distance_from_features(own, reference)),
                "shapes_kernel_distance": float(kernel_distance(own, reference)),
            }
        return found

    def mixed_captions(self, motion: str) -> dict[str, Any]:
        """The distances of `generation` with so many clips that even those of other real clips are small."""
        return self.generation(self.settings.mixed_num, motion=motion)

    @torch.no_grad()
    def reconstruct(self, video: Tensor) -> Tensor:
        """Through the autoencoder and back, uint8."""
        parts = [from_uint8(part).to(self.pipeline.device) for part in video.split(BATCH)]
        decoded = [self.pipeline.decode(*self.pipeline.autoencoder.encode(part)) for part in parts]
        return torch.cat([to_uint8(part).cpu() for part in decoded])

    def copies_in(self, video: Tensor) -> dict[str, float]:
        """The distance of videos to the training clips, compared with that of other real clips."""
        data = ShapesDataModule(**yaml.safe_load(self.recipe.read_text())["data"]["init_args"])
        stream = data.stream("train")
        number = min(self.settings.bank, stream.num)
        rows = [range(first, min(first + BATCH, number)) for first in range(0, number, BATCH)]
        bank = torch.cat([thumbnails(torch.stack([stream.clip(i)["video"] for i in row])) for row in rows])
        _, real = clips(self.pipeline, len(video), split="val", level="plain")
        result: dict[str, float] = {"bank": number}
        for name, one in (("generated", video), ("real", real)):
            found = find_copies(thumbnails(one), bank)
            result[f"{name} copied"] = found.copied.float().mean().item()
            result[f"{name} median distance"] = found.distance.median().item()
            result[f"{name} least distance"] = found.distance.min().item()
        return result


def clips(pipeline: CMDPipeline, num: int, split: str = "test", **options: Any) -> tuple[list[Scene], Tensor]:
    """Held-out scenes and their clips of a model's size, uint8 (N, C, T, H, W)."""
    _, frames, size, _ = pipeline.config.video_shape
    seed = stable_hash(0, split)
    scenes = [draw_scene(seed, index, frames=frames, **options) for index in range(num)]
    return scenes, torch.stack([render(scene, frames, size) for scene in scenes])


@torch.no_grad()
def generate(
    pipeline: CMDPipeline,
    captions: Sequence[str],
    steps: int | None = None,
    of: Tensor | None = None,
    first_seed: int = 0,
) -> Tensor:
    """Videos of captions, uint8, from consecutive seeds; with the true content frames `of` these clips if given."""
    videos = []
    for first in range(0, len(captions), BATCH):
        values = list(captions[first : first + BATCH])
        seeds = range(first_seed + first, first_seed + first + len(values))
        if of is None:
            content = pipeline.generate_content(values, seeds, steps)
        else:
            clips = from_uint8(of[first : first + BATCH]).to(pipeline.device)
            content = pipeline.autoencoder.encode(clips)[0]
        motion = pipeline.generate_motion(content, values, seeds, steps)
        videos.append(to_uint8(pipeline.decode(content, motion)).cpu())
    return torch.cat(videos)


@torch.no_grad()
def features_of(network: ShapesFeatures, video: Tensor) -> Tensor:
    """Shapes features of clips, (N, D)."""
    return torch.cat([network(part) for part in video.split(BATCH)])


def answered(readings: Sequence[Reading], expected: Sequence[Reading]) -> dict[str, float]:
    """The share of right answers to each question."""
    shares = {}
    for question in ("shape", "colour", "direction"):
        right = [getattr(a, question) == getattr(b, question) for a, b in zip(readings, expected, strict=True)]
        shares[question] = sum(right) / len(right)
    return shares


def measured_with(model: str) -> dict[str, Any]:
    """The fingerprints of a model's weights and of those that read its samples."""
    yardstick = {name: weights_sha256(WEIGHTS / name) for name in (ShapesReader.WEIGHTS, ShapesFeatures.WEIGHTS)}
    return {"model": weights_sha256(model_folder(model)), "yardstick": yardstick}


def first_positions(video: Tensor) -> Tensor:
    """Where the shape is in the first frame of plain clips (B, C, T, H, W), (B, 2) as x, y in sides of the frame.

    The centre of what differs from the commonest value of the frame, its background, by more than 40 levels; NaN where
    nothing does.
    """
    frame = video[:, :, 0].float()
    background = frame.flatten(2).median(2).values[:, :, None, None]
    weight = ((frame - background).abs().amax(1) > 40).float()
    grid = (torch.arange(frame.shape[-1]) + 0.5) / frame.shape[-1]
    total = weight.sum((1, 2))
    return torch.stack([(weight.sum(1) * grid).sum(1) / total, (weight.sum(2) * grid).sum(1) / total], 1)


def spread(positions: Tensor) -> dict[str, float]:
    """Standard deviations, and how many cells of a 4x4 grid hold a position."""
    known = positions[~positions.isnan().any(1)]
    cells = {(int(4 * x), int(4 * y)) for x, y in known.tolist()}
    return {
        "std_x": known[:, 0].std().item(),
        "std_y": known[:, 1].std().item(),
        "cells_of_16": len(cells),
        "found": len(known) / len(positions),
    }


def measure(quality: Quality, path: Path, chosen: Sequence[str], record: Mapping[str, Any]) -> dict[str, Any]:
    """Measure the cells whose names begin as `chosen`, by default all, as far as the file lacks them."""
    cells = quality.cells()
    for prefix in chosen:
        if not any(name.startswith(prefix) for name in cells):
            raise InputError(f"--cells {prefix}: no cell begins so; there are {', '.join(cells)}")
    wanted: list[Cell] = [{"cell": name} for name in cells if name.startswith(tuple(chosen) or "")]
    return measure_cells(wanted, lambda cell: [{**cell, **cells[cell["cell"]]()}], record, path, math.inf)


def main() -> int:
    """The command line."""
    parser = command_line(__doc__)
    parser.add_argument("model", help="zoo name or model folder")
    add_json(parser, None)
    parser.add_argument("--cells", nargs="*", default=[], help="beginnings of the names of the cells to measure")
    parser.add_argument("--recipe", type=Path, required=True, help="config that trained the content model")
    for name, value in vars(Settings()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    options = parser.parse_args()
    if not options.recipe.is_file():
        raise InputError(f"--recipe {options.recipe}: there is no such file; give the config of the content model")
    settings = Settings(**{name: getattr(options, name) for name in vars(Settings())})
    pipeline = open_model(options.model)
    sampling = {stage: dict(zip(("steps", "guidance"), pipeline.sampling(stage), strict=True)) for stage in STAGES}
    about = vars(settings) | {"weights": measured_with(options.model), "sampling": sampling}
    record = {"settings": about | {"recipe": str(options.recipe)}} | provenance()
    measure(Quality(pipeline, settings, options.recipe), options.json, options.cells, record)
    return 0


if __name__ == "__main__":
    program(main)
