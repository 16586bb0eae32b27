"""Writes what `predict` generates, a file a sample, as it comes."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter

from cmd_lightning.atomic_files import replaced
from cmd_lightning.errors import InputError
from cmd_lightning.video_encoding import write_video


class VideoWriter(BasePredictionWriter):
    """Writes `<folder>/<key>.mp4`, such as `videos/000000/0001.mp4`, and a `.json` with caption, label and seed.

    Args:
        folder: Where the videos go, which must be empty; relative to the trainer's `default_root_dir`.

    Raises:
        InputError: Something is in the folder when prediction begins.
    """

    def __init__(self, folder: str = "videos") -> None:
        super().__init__(write_interval="batch")
        self.folder = folder

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        folder = Path(trainer.default_root_dir, self.folder)
        if stage == "predict" and folder.exists() and any(folder.iterdir()):
            raise InputError(f"trainer.default_root_dir: {folder} is not empty; give another, or remove it")

    def write_on_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        prediction: dict[str, Any],
        batch_indices: Sequence[int] | None,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        """Writes the videos of one batch; every rank writes its own."""
        folder = Path(trainer.default_root_dir, self.folder)
        folder.mkdir(parents=True, exist_ok=True)
        for i, key in enumerate(prediction["key"]):
            path = folder / f"{safe_path(key)}.mp4"
            fps: float = pl_module.fps  # type: ignore[assignment]  # torch types attributes as Tensor | Module
            write_video(path, prediction["video"][i].cpu(), fps)
            about: dict[str, Any] = {name: prediction[name][i] for name in ("caption", "seed") if name in prediction}
            about |= {"label": int(prediction["label"][i])} if "label" in prediction else {}
            with replaced(path.with_suffix(".json")) as draft:
                draft.write_text(json.dumps(about, indent=2) + "\n")


def safe_path(key: str) -> str:
    """A key as a relative path within a folder, with a dash for what is unusual: a third party may have chosen it."""
    return "/".join(re.sub(r"[^\w.~-]+|^[.]+", "-", part) or "-" for part in key.split("/"))
