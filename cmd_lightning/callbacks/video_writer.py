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
from cmd_lightning.video_io import write_video


class VideoWriter(BasePredictionWriter):
    """Writes `<folder>/<key>.mp4`, and beside it a `.json` with caption, label and seed.

    Args:
        folder: Where the videos go; relative to the trainer's `default_root_dir`.
    """

    def __init__(self, folder: str = "videos") -> None:
        super().__init__(write_interval="batch")
        self.folder = folder
        self._written: set[str] = set()

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
            name = re.sub(r"[^\w.-]+|^[.]+", "-", key)  # a key is a path inside a tar file, and a stranger chose it
            if name in self._written:  # the same key in two shards
                name = f"{name}-{batch_idx}-{i}"
            self._written.add(name)
            path = folder / f"{name}.mp4"
            fps: float = pl_module.fps  # type: ignore[assignment]  # torch types attributes as Tensor | Module
            write_video(path, prediction["video"][i].cpu(), fps)
            about = {name: prediction[name][i] for name in ("caption", "seed")} | {"label": int(prediction["label"][i])}
            with replaced(path.with_suffix(".json")) as draft:
                draft.write_text(json.dumps(about, indent=2) + "\n")
