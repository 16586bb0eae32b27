"""The record next to a video: all settings that are needed to generate it again, bit for bit."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cmd_lightning.commands.uses import Use
from cmd_lightning.zoo import model_folder

if TYPE_CHECKING:
    from torch import Tensor

    from cmd_lightning.pipeline import CMDPipeline


@dataclass(frozen=True)
class Options:
    """Options of the command line for opening a model.

    Args:
        model: Model folder, or a name of the zoo.
        solver: Solver, one for both stages or by stage; None for the model's own.
        lora: File or folder of LoRA adapters.
        frame_decoder: Image autoencoder that decodes the frames.
        dtype: Data type in which the networks compute.
        compiled: Whether the networks are compiled.
        background: Colour behind transparent pixels of images.
        controlnet: Folder or hub id of the ControlNet that guides the content model.
        controlnet_scale: Weight of the ControlNet.
        ip_adapter: File of the IP-Adapter of the content model.
        ip_adapter_image: Image prompt of the IP-Adapter.
        ip_adapter_scale: Weight of the IP-Adapter.
    """

    model: str
    solver: str | Mapping[str, str] | None = None
    lora: str | None = None
    frame_decoder: str | None = None
    dtype: str = "float32"
    compiled: bool = False
    background: str = "white"
    controlnet: str | None = None
    controlnet_scale: float = 1.0
    ip_adapter: str | None = None
    ip_adapter_image: str | None = None
    ip_adapter_scale: float = 1.0


@dataclass(frozen=True)
class Job:
    """One video to generate.

    Args:
        condition: Caption or class id; None for an unconditional model.
        seed: Seed of the video.
        image: File of the image to animate; None to generate the content frame too.
        use: Its clips and what to do with them.
        control_image: File of the image for the ControlNet.
    """

    condition: str | int | None
    seed: int
    image: str | None = None
    use: Use | None = None
    control_image: str | None = None


def described(
    pipeline: CMDPipeline, options: Options, steps: Mapping[str, int], guidance: Mapping[str, float]
) -> dict[str, Any]:
    """The part of the record that all videos of a run share: settings of the stages, weights, versions and hardware."""
    import torch

    from cmd_lightning.pipeline.request import SCHEDULERS
    from cmd_lightning.provenance import provenance, weights_sha256

    weights = weights_sha256(model_folder(options.model))
    for name in ("controlnet", "ip_adapter"):
        if (path := getattr(options, name)) is not None and Path(path).exists():
            weights |= {f"{name}/{file}": digest for file, digest in weights_sha256(path).items()}
    return {
        "steps": dict(steps),
        "guidance": dict(guidance),
        "solver": {
            stage: type(getattr(pipeline, name)).__name__ for stage, name in SCHEDULERS.items() if stage in steps
        },
        "frame_decoder": options.frame_decoder,
        "dtype": options.dtype,
        "compiled": options.compiled,
        "weights": weights | ({} if options.lora is None else weights_sha256(options.lora)),
        "device": str(pipeline.device),
        "threads": torch.get_num_threads(),
        "options": asdict(options),
    } | provenance()


def record(
    about: Mapping[str, Any], batch: Sequence[Job], place: int, video: Tensor, warnings: Sequence[str] = ()
) -> dict[str, Any]:
    """The record of one video, as plain data.

    Args:
        about: See `described`.
        batch: The videos that were computed together, as rounding depends on all of them.
        place: Index of the video in the batch, from 0.
        video: The video itself, `(3, T, H, W)`, uint8.
        warnings: Warnings that were shown.
    """
    own = asdict(batch[place])
    return {
        "model": about["options"]["model"],
        **own,
        "warnings": list(warnings),
        **about,
        "batch": [asdict(job) for job in batch],
        "place": place,
        "frames_sha256": frames_sha256(video),
    }


def write_record(path: Path, record: Mapping[str, Any]) -> None:
    """Writes a record as JSON."""
    from cmd_lightning.atomic_files import replaced

    with replaced(path) as draft:
        draft.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def frames_sha256(video: Tensor) -> str:
    """The sha256 of a video's pixels, `(3, T, H, W)`, uint8, before they are compressed."""
    return hashlib.sha256(video.permute(1, 2, 3, 0).contiguous().numpy().tobytes()).hexdigest()
