"""Content frames, motion layouts and content models compared: trained alike from scratch, judged by generation.

    python -m benchmarks.shapes.content --minutes 60    # one thread; rerun until it reports completion
    python -m benchmarks.shapes.content --table         # what is measured so far, as Markdown

A cell is a variant with a seed. Its three stages are configs/shapes32 with other networks and the same number of
samples for all, by `cmd-lightning fit`; an interrupted one resumes. The autoencoder learns plain and mixed clips, the
other two stages plain ones, for which a short training is enough. Variants share stages: those of one autoencoder its
motion model, those of key frames their content model. Then videos of held-out plain captions are generated and
classified. CPU seconds are those of the trainings, with loading and validation.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
import yaml

from benchmarks.cells import Cell, Rows, closing, command_line, measure_cells, read, stamped
from benchmarks.shapes.quality import Quality, Settings, clips, generate
from benchmarks.trainings import TimeIsUp, Trainings, placed
from cmd_lightning.components.cmd import compose, load_stages
from cmd_lightning.errors import program
from cmd_lightning.latent_space import from_uint8
from cmd_lightning.markdown import table
from cmd_lightning.metrics.content_naturalness import MEASURES, REAL
from cmd_lightning.metrics.reconstruction import psnr
from cmd_lightning.pipeline import CMDPipeline
from cmd_lightning.provenance import provenance
from cmd_lightning.shapes.reader import Reading, joint_accuracy

STAGES = ("autoencoder", "content", "motion")
BASE = Path("configs/shapes32")
RESULTS = Path("benchmarks/results/content.json")
SAMPLES = {"autoencoder": 6_000, "content": 20_000, "motion": 20_000}
"""Clips that a stage is trained on, at the batch size of its config."""
CACHED = 8_000
"""Different clips of the motion stage, whose latents are kept."""
FRAMES: Mapping[str, dict[str, Any]] = {
    "softmax per pixel": {"weights": "pixel"},
    "softmax per patch": {"weights": "patch"},
    "softmax per frame": {"weights": "frame"},
    "first frame": {"weights": "first"},
    "middle frame": {"weights": "middle"},
    "first frame, warped by the decoder": {"weights": "first", "warp": True},
    "first frame and residual": {"weights": "first", "residual": 0.25},
}
KEY_FRAMES = ("first frame", "middle frame", "first frame, warped by the decoder")
"""Whose content model does not depend on the autoencoder."""
AXES = {"class_path": "PlanesUNet", "init_args": {"width": 48, "multipliers": [1, 1, 1], "blocks": 1}}
GRID = {
    "class_path": "GridUNet",
    "init_args": {"width": 64, "multipliers": [1, 1], "layers": 1, "heads": 4, "frames": 4, "clean": True},
}
LAYOUTS: Mapping[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "axes": ("CMDAutoencoder", {"motion_channels": 8}, AXES),
    "grid 8x8": ("GridAutoencoder", {"motion_channels": 8, "grid": [8, 8]}, GRID),
    "grid 8x8, 2 channels": ("GridAutoencoder", {"motion_channels": 2, "grid": [8, 8]}, GRID),
    "grid 4x4": ("GridAutoencoder", {"motion_channels": 8, "grid": [4, 4]}, GRID),
    "grid 8x8, every 2nd frame": ("GridAutoencoder", {"motion_channels": 8, "grid": [8, 8], "motion_stride": 2}, GRID),
}
"""By name: the autoencoder's class and arguments, and the motion model."""
UNET = {"width": 48, "multipliers": [1, 2], "layers": 1, "heads": 4, "patch_size": 2, "clean": True}
DIT = {"width": 128, "depth": 6, "heads": 4}
MODELS: Mapping[str, dict[str, Any]] = {
    "U-Net": {"class_path": "ContentUNet", "init_args": UNET},
    "U-Net, velocity": {"class_path": "ContentUNet", "init_args": UNET | {"clean": False}},
    "U-Net with tokens": {"class_path": "ContentUNet", "init_args": UNET | {"tokens": True}},
    "DiT, patch 4": {"class_path": "ContentDiT", "init_args": DIT | {"width": 192, "heads": 6, "patch_size": 4}},
    "DiT, patch 4, clean, convolutions, skips": {
        "class_path": "ContentDiT",
        "init_args": {
            **{"width": 192, "depth": 6, "heads": 6, "patch_size": 4},
            **{"convolutional": 8, "long_skips": True, "clean": True},
        },
    },
    "DiT, patch 2, convolutions, skips": {
        "class_path": "ContentDiT",
        "init_args": DIT | {"patch_size": 2, "convolutional": 16, "long_skips": True},
    },
}


@dataclass(frozen=True)
class Variant:
    """A way to train the three stages.

    Attributes:
        frame: Of `FRAMES`.
        layout: Of `LAYOUTS`.
        model: Of `MODELS`.
        predicted: Joint accuracy on generated plain captions that was predicted before anything was trained.
    """

    frame: str
    layout: str
    model: str
    predicted: float

    @property
    def cell(self) -> dict[str, Any]:
        """What sets it apart."""
        return {"frame": self.frame, "layout": self.layout, "model": self.model}

    def folder(self, stage: str, seed: int) -> Path:
        """Where a stage lies, relative to all others: the same for variants that share it."""
        shared = stage == "content" and self.frame in KEY_FRAMES
        parts = [self.frame.partition(",")[0]] if shared else [self.frame, self.layout]
        parts += [self.model] * (stage == "content")
        return Path(stage, " - ".join(parts).replace(",", "").replace(" ", "_"), f"seed{seed}")


VARIANTS = (
    Variant("first frame", "grid 8x8", "U-Net", 0.60),
    Variant("softmax per pixel", "axes", "U-Net", 0.20),
    Variant("first frame", "axes", "U-Net", 0.50),
    Variant("softmax per patch", "axes", "U-Net", 0.30),
    Variant("first frame", "grid 8x8", "U-Net, velocity", 0.35),
    Variant("first frame", "grid 8x8", "DiT, patch 4, clean, convolutions, skips", 0.30),
    Variant("first frame", "grid 8x8", "DiT, patch 4", 0.10),
    Variant("first frame", "grid 8x8", "DiT, patch 2, convolutions, skips", 0.25),
    Variant("first frame", "grid 8x8", "U-Net with tokens", 0.60),
    Variant("softmax per pixel", "grid 8x8", "U-Net", 0.25),
    Variant("first frame", "grid 8x8, 2 channels", "U-Net", 0.50),
    Variant("middle frame", "grid 8x8", "U-Net", 0.60),
    Variant("first frame and residual", "grid 8x8", "U-Net", 0.50),
    Variant("softmax per patch", "grid 8x8", "U-Net", 0.40),
    Variant("softmax per frame", "grid 8x8", "U-Net", 0.45),
    Variant("first frame", "grid 4x4", "U-Net", 0.45),
    Variant("first frame", "grid 8x8, every 2nd frame", "U-Net", 0.55),
    Variant("first frame, warped by the decoder", "grid 8x8", "U-Net", 0.55),
)
"""In the order of measurement; the predictions are of 2026-12-01, before any of them was trained."""


def config(stage: str, variant: Variant, seed: int, root: Path, samples: Mapping[str, int]) -> dict[str, Any]:
    """The config of a stage: that of `BASE` with the variant's network, seed, length and folder."""
    made = deepcopy(yaml.safe_load((BASE / f"{stage}.yaml").read_text()))
    options, data = made["model"]["init_args"], made["data"]["init_args"]
    kind, layout, motion = LAYOUTS[variant.layout]
    if stage == "autoencoder":
        common = {
            key: value for key, value in options["network"]["init_args"].items() if key not in ("grid", "weights")
        }
        options["network"] = {"class_path": kind, "init_args": common | layout | FRAMES[variant.frame]}
    else:
        options["network"] = MODELS[variant.model] if stage == "content" else motion
        options["autoencoder"] = str(root / variant.folder("autoencoder", seed) / "last.ckpt")
        data |= {"level": "plain", "motion": "middle"}
    steps = samples[stage] // data["batch_size"]
    if "cache_latents" in options:
        data["train_clips"] = min(CACHED, samples[stage])
    made["trainer"]["val_check_interval"] = max(1, steps // 4)
    return placed(made, root / variant.folder(stage, seed), seed, steps)


def measure(cell: Cell, root: Path, trainings: Trainings, settings: Settings, guidance: Mapping[str, float]) -> Rows:
    """The row of a variant with a seed."""
    [variant] = [variant for variant in VARIANTS if variant.cell.items() <= cell.items()]
    stages = {stage: trainings.finished(config(stage, variant, cell["seed"], root, SAMPLES)) for stage in STAGES}
    pipeline = compose(load_stages(*(str(stages[stage].checkpoint) for stage in STAGES)))
    pipeline.register_to_config(steps=dict.fromkeys(guidance, settings.curve_steps), guidance=dict(guidance))
    torch.set_num_threads(1)
    row = figures(pipeline, settings)
    row["cpu seconds"] = {stage: round(trained.seconds) for stage, trained in stages.items()}
    return [stamped(row | {"predicted": variant.predicted})]


@torch.no_grad()
def figures(pipeline: CMDPipeline, settings: Settings) -> dict[str, Any]:
    """What is measured of a trained variant, on held-out clips and captions."""
    quality = Quality(pipeline, settings, BASE / "content.yaml")
    natural = quality.content_frames()
    row: dict[str, Any] = {name: value / natural[name + REAL] for name, value in natural.items() if REAL not in name}
    for level in ("plain", "mixed"):
        _, video = clips(pipeline, settings.num, level=level)
        row[f"psnr {level}"] = psnr(from_uint8(quality.reconstruct(video)), from_uint8(video)).mean().item()
    scenes, real = clips(pipeline, settings.num, level="plain")
    captions, expected = [scene.caption for scene in scenes], list(map(Reading.of, scenes))
    videos = {
        "reconstructed": quality.reconstruct(real),
        "true content": generate(pipeline, captions, of=real),
        "generated": generate(pipeline, captions),
    }
    for name, video in videos.items():
        readings = quality.reader.read(video)
        row[name] = joint_accuracy(readings, expected)
        for kind in (True, False):
            chosen = [i for i, scene in enumerate(scenes) if scene.seen == kind]
            if name == "generated" and chosen:
                right = joint_accuracy([readings[i] for i in chosen], [expected[i] for i in chosen])
                row["generated, seen" if kind else "generated, unseen"] = right
    _, other = clips(pipeline, settings.num, split="val", level="plain")
    return row | {"plain": quality.distances(videos | {"real": real}, other)}


HEAD = (
    *(
        "content frame",
        "motion",
        "content model",
        "seeds",
        "PSNR mixed / plain, dB",
        "denoising error, of real frames'",
    ),
    *("reader: reconstructed", "true content", "generated", "predicted", "Fréchet distance", "CPU min"),
)


def comparison(rows: Rows) -> str:
    """The table of what is measured: means over seeds, with the largest deviation of what is generated."""
    lines = []
    for variant in VARIANTS:
        if found := [row for row in rows if variant.cell.items() <= row.items()]:

            def mean(*keys: str, found: Rows = found) -> float:
                return fmean(row[keys[0]][keys[1]] if len(keys) > 1 else row[keys[0]] for row in found)

            generated = mean("generated")
            most = max(abs(row["generated"] - generated) for row in found)
            frechet = fmean(row["plain"]["generated"]["shapes_frechet_distance"] for row in found)
            minutes = "+".join(f"{mean('cpu seconds', stage) / 60:.0f}" for stage in STAGES)
            lines.append(
                (
                    *(variant.frame, variant.layout, variant.model, len(found)),
                    f"{mean('psnr mixed'):.1f} / {mean('psnr plain'):.1f}",
                    f"{mean('denoising_error'):.2f}",
                    *(f"{mean(name):.0%}" for name in ("reconstructed", "true content")),
                    f"{generated:.0%}" + (f" ± {most:.0%}" if len(found) > 1 else ""),
                    *(f"{variant.predicted:.0%}", f"{frechet:.1f}", minutes),
                )
            )
    return table(HEAD, lines)


def naturalness(autoencoder: str, rows: Rows) -> dict[str, dict[str, float]]:
    """For an autoencoder's card: each measure of its content frames over that of real frames, means over seeds."""
    found = {}
    for frame in FRAMES:
        measured = [row for row in rows if row["frame"] == frame and LAYOUTS[row["layout"]][0] == autoencoder]
        if measured:
            found[frame] = {name: round(fmean(row[name] for row in measured), 2) for name in MEASURES}
    return found


def main() -> int:
    """The command line."""
    parser = command_line(__doc__)
    parser.add_argument("--minutes", type=float, default=8.0, help="of training (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=1, help="seeds per variant, from 0 (default: %(default)s)")
    parser.add_argument("--variants", type=int, default=len(VARIANTS), help="only the first ones (default: all)")
    parser.add_argument("--root", type=Path, default=Path("outputs/content"), help="stages (default: %(default)s)")
    parser.add_argument("--json", type=Path, default=RESULTS, help="results (default: %(default)s)")
    parser.add_argument("--table", action="store_true", help="print what is measured; train nothing")
    options = parser.parse_args()
    if options.table:
        print(comparison(read(options.json)["rows"]))
        return 0
    settings, guidance = Settings(num=256, curve_steps=16), {"content": 2.0, "motion": 1.0}
    record = {"settings": {**vars(settings), "samples": SAMPLES, "guidance": guidance}} | provenance()
    trainings = Trainings(time.monotonic() + 60 * options.minutes)
    cells = [
        {**variant.cell, "seed": seed} for seed in range(options.seeds) for variant in VARIANTS[: options.variants]
    ]
    try:
        result = measure_cells(
            cells,
            lambda cell: measure(cell, options.root, trainings, settings, guidance),
            record,
            options.json,
            options.minutes,
        )
    except TimeIsUp:
        print("The time is up; the same command resumes from here.")
        return 0
    print(closing(cells, result["rows"]))
    return 0


if __name__ == "__main__":
    program(main)
