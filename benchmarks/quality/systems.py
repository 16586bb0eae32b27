"""The compared systems, each in three sizes: their stages, and the config of each stage."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from benchmarks.trainings import placed

CONFIGS = Path(__file__).parents[2] / "configs"
COMMON = CONFIGS / "shapes32" / "content.yaml"
"""Whose condition, objective and optimiser all diffusion models have."""
DATA = {"level": ["plain", "plain", "mixed"], "motion": "middle", "num_frames": 16, "size": 32}
"""The clips of all trainings."""
CACHED = 8_000
"""Different clips of stages that keep latents; the others render a new clip each time."""
SIZES = ("small", "middle", "large")

Network = Mapping[str, Any]


@cache
def read(path: Path) -> dict[str, Any]:
    """A config as plain data."""
    return yaml.safe_load(path.read_text())


def network(kind: str, **options: Any) -> dict[str, Any]:
    """A network as configs describe it."""
    return {"class_path": kind, "init_args": options}


@dataclass(frozen=True)
class Part:
    """A stage of a system.

    Attributes:
        stage: "autoencoder", "content", "motion" or "video".
        base: The config whose other settings it has, in configs/.
        network: Its network.
        share: Of the budget that is for this stage.
        batch: Clips per step.
        data: Settings of its clips in the place of those of all.
    """

    stage: str
    base: str
    network: Network
    share: float
    batch: int
    data: Mapping[str, Any] = field(default_factory=dict)

    def config(self, batch: int | None = None) -> dict[str, Any]:
        """The config that trains it, but for length, seed and folder."""
        made = deepcopy(read(CONFIGS / f"{self.base}.yaml"))
        options, trainer = made["model"]["init_args"], made["trainer"]
        options["network"] = deepcopy(dict(self.network))
        options.pop("metrics", None)
        data = DATA | dict(self.data) | {"batch_size": batch or self.batch}
        if self.stage != "autoencoder":
            common = deepcopy(read(COMMON))["model"]["init_args"]
            options |= {name: common[name] for name in ("condition", "condition_dropout", "objective", "optimizer")}
        if options.get("cache_latents"):
            data |= {"train_clips": CACHED, "repeat": True}
        if "video_shape" in options:
            options["video_shape"] = [3, data["num_frames"], data["size"], data["size"]]
        made["data"]["init_args"] = data
        # Nothing is looked at on the way: validation and images would be part of the cost.
        trainer |= {"limit_val_batches": 0, "num_sanity_val_steps": 0, "enable_progress_bar": False}
        kept = ("EMA", "LastCheckpoint")
        trainer["callbacks"] = [one for one in trainer["callbacks"] if one["class_path"] in kept]
        return made


Parts = Sequence[Part]


@dataclass(frozen=True)
class System:
    """A way to generate videos.

    Attributes:
        name: For people.
        sizes: Its stages by size, in the order of training.
        predicted: Joint accuracy on plain captions and Fréchet distance of mixed ones after one core-hour, with 16
            steps, as predicted before anything was trained.
    """

    name: str
    sizes: Mapping[str, Parts]
    predicted: tuple[float, float]


AXES = network(
    "CMDAutoencoder",
    **{"patch_size": 4, "width": 64, "motion_channels": 8, "depth": 2, "heads": 4, "head_dim": 16},
    **{"weights": "channel", "output": "linear"},
)
GRID = network("GridAutoencoder", **AXES["init_args"] | {"weights": "first", "grid": [8, 8]})
PLANES = network(
    "TriplaneAutoencoder",
    **{"patch_size": 4, "width": 64, "plane_channels": 8, "depth": 2, "heads": 4, "head_dim": 16, "output": "linear"},
)


def dit(kind: str, size: tuple[int, int, int], **options: Any) -> dict[str, Any]:
    """A diffusion transformer of a width, a depth and heads."""
    width, depth, heads = size
    return network(kind, width=width, depth=depth, heads=heads, **options)


def motion_dit(size: tuple[int, int, int], content_patch_size: int = 4) -> dict[str, Any]:
    """The paper's motion model."""
    return dit("MotionDiT", size, patch_size=2, content_patch_size=content_patch_size)


def paper(content: Network, motion: Network) -> Parts:
    """CMD with the paper's design."""
    return (
        Part("autoencoder", "shapes32paper/autoencoder", AXES, 0.25, 4),
        Part("content", "shapes32paper/content", content, 0.40, 16),
        Part("motion", "shapes32paper/motion", motion, 0.35, 16),
    )


def grid(content: int, motion: int) -> Parts:
    """CMD with the first frame as content frame and motion on a grid; widths of both U-Nets."""
    content_network = {"multipliers": [1, 2], "layers": 1, "heads": 4, "patch_size": 2, "clean": True}
    motion_network = {"multipliers": [1, 1], "layers": 1, "heads": 4, "frames": 4, "clean": True}
    return (
        Part("autoencoder", "shapes32/autoencoder", GRID, 0.25, 4),
        Part("content", "shapes32/content", network("ContentUNet", width=content, **content_network), 0.25, 16),
        Part("motion", "shapes32/motion", network("GridUNet", width=motion, **motion_network), 0.50, 16),
    )


def planes(width: int, multipliers: list[int]) -> Parts:
    """PVDM-like: one model of the three planes of an autoencoder."""
    denoiser = network("TriplaneUNet", width=width, multipliers=multipliers, layers=1, heads=4)
    return (
        Part("autoencoder", "baselines/pvdm_autoencoder", PLANES, 0.25, 4),
        Part("video", "baselines/pvdm", denoiser, 0.75, 16),
    )


def pixels(kind: str, **options: Any) -> Parts:
    """A model of whole videos in pixels."""
    return (Part("video", "baselines/lvdm", network(kind, **options), 1.0, 4),)


def modelscope(channels: list[int]) -> Parts:
    """ModelScope-like."""
    settings = {
        "block_out_channels": channels,
        "down_block_types": ["DownBlock3D", "CrossAttnDownBlock3D", "CrossAttnDownBlock3D"],
        "up_block_types": ["CrossAttnUpBlock3D", "CrossAttnUpBlock3D", "UpBlock3D"],
        **{"layers_per_block": 1, "attention_head_dim": 8, "norm_num_groups": 4},
    }
    return pixels("ModelScope", settings=settings)


def latte(heads: int, layers: int) -> Parts:
    """Latte-like."""
    settings = {"patch_size": 4, "num_layers": layers, "num_attention_heads": heads, "attention_head_dim": 32}
    return pixels("Latte", settings=settings | {"cross_attention_dim": 32 * heads})


def sizes(small: Parts, middle: Parts, large: Parts) -> Mapping[str, Parts]:
    """The three sizes of a system."""
    return dict(zip(SIZES, (small, middle, large), strict=True))


SYSTEMS: Mapping[str, System] = {
    "cmd": System(
        "CMD, first frame and grid",
        sizes(grid(32, 48), grid(48, 64), grid(64, 96)),
        (0.60, 9.0),
    ),
    "cmd-paper": System(
        "CMD as in the paper",
        sizes(
            paper(dit("ContentDiT", (128, 4, 4), patch_size=4), motion_dit((96, 4, 3))),
            paper(dit("ContentDiT", (192, 6, 6), patch_size=4), motion_dit((160, 6, 5))),
            paper(dit("ContentDiT", (256, 8, 8), patch_size=4), motion_dit((256, 8, 8))),
        ),
        (0.05, 25.0),
    ),
    "pvdm": System(
        "PVDM-like",
        sizes(planes(32, [1, 2]), planes(48, [1, 2, 2]), planes(64, [1, 2, 4])),
        (0.10, 22.0),
    ),
    "latte": System("Latte-like", sizes(latte(3, 4), latte(4, 6), latte(6, 8)), (0.10, 30.0)),
    "lvdm": System(
        "LVDM-like",
        sizes(
            *(
                pixels("LVDM", width=width, multipliers=[1, 2, 4], layers=1, heads=heads)
                for width, heads in ((8, 1), (16, 2), (24, 2))
            )
        ),
        (0.10, 35.0),
    ),
    "modelscope": System(
        "ModelScope-like",
        sizes(modelscope([8, 16, 32]), modelscope([16, 32, 64]), modelscope([24, 48, 96])),
        (0.05, 40.0),
    ),
}
"""In the order of measurement. All predictions are of 2026-12-01, before any of them was trained."""


def configs(
    parts: Parts,
    steps: Mapping[str, int],
    seed: int,
    root: Path,
    batch: int | None = None,
    limits: Mapping[str, float] | None = None,
) -> dict[str, dict[str, Any]]:
    """The configs of all stages by name, each with its folder.

    A folder is named after a digest of its config, so that systems share equal stages, and a changed stage is trained
    from scratch.

    Args:
        parts: The stages, in the order of training.
        steps: Optimiser steps by stage.
        seed: Of weights and noise; the clips are the same for all.
        root: The folder of all stages.
        batch: Clips per step in the place of the parts' own.
        limits: CPU seconds of each stage, after which it ends.
    """
    made: dict[str, dict[str, Any]] = {}
    autoencoder: Path | None = None
    for part in parts:
        config = part.config(batch)
        if part.stage != "autoencoder" and autoencoder is not None:
            config["model"]["init_args"]["autoencoder"] = f"{autoencoder.name}/last.ckpt"
        limit = (limits or {}).get(part.stage)
        whole = placed(config, Path(), seed, steps[part.stage], limit)
        digest = hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()[:12]
        folder = root / f"{part.stage}-{part.network['class_path']}-{digest}"
        if autoencoder is not None:
            config["model"]["init_args"]["autoencoder"] = str(autoencoder / "last.ckpt")
        made[part.stage] = placed(config, folder, seed, steps[part.stage], limit)
        autoencoder = folder if part.stage == "autoencoder" else autoencoder
    return made
