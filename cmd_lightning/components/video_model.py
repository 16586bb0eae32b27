"""The base of CMD and models of whole videos: `predict` and `test` with a DataModule."""

from __future__ import annotations

import hashlib
import json
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from lightning import LightningModule
from torch import Tensor

from cmd_lightning.atomic_files import replaced
from cmd_lightning.components.batches import ClipRange, complete
from cmd_lightning.conditioning import Values
from cmd_lightning.diffusion.sampling import PerStage
from cmd_lightning.errors import InputError
from cmd_lightning.latent_space import to_uint8
from cmd_lightning.metrics.suite import MetricSuite
from cmd_lightning.provenance import provenance, weights_sha256


class VideoModel(LightningModule):
    """A model that generates videos.

    Attributes:
        tested: Sets of clips that `test` evaluates, by name, each with its kinds of metrics.
        metrics: Metrics of `test`, by their names in `MetricSuite`; opened when a test starts.
        preset: How clips are prepared for the I3D: see `Preparation`.
        fps: Frames per second of the videos.
        sources: Folders or files of the weights.
    """

    tested: ClassVar[Mapping[str, Sequence[str]]] = {"generation": ("frechet", "kernel", "is", "clipsim")}
    metrics: Sequence[str] = ()
    preset: str | None = None
    fps: float | None
    sources: Sequence[str] = ()
    suite: MetricSuite

    @abstractmethod
    def sample(
        self, condition: Values, *, seeds: Sequence[int], steps: PerStage = None, guidance: PerStage = None
    ) -> Tensor:
        """Generates videos.

        Args:
            condition: Captions, class ids, or for an unconditional model the number of videos.
            seeds: A seed for each video. Its noise depends on nothing else, so batching changes only rounding.
            steps: Denoising steps, one number or by stage.
            guidance: Guidance scale, one number or by stage; 1 or less disables it.

        Returns:
            Videos `(B, C, T, H, W)`, uint8.

        Raises:
            InputError: The model needs another kind of condition, or a number is out of range.
        """

    @abstractmethod
    def values(self, batch: dict[str, Any]) -> list[str] | list[int] | int:
        """The captions, labels or number of samples that videos for a batch are generated from."""

    @abstractmethod
    def made_with(self) -> dict[str, Any]:
        """The part of a test's protocol on averaged weights and sampling, as plain data."""

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Any]:
        """Generates one video for each sample, from its caption or label; its seed is derived from its key."""
        seeds = seeds_of(batch)
        about: dict[str, Any] = {name: batch[name] for name in ("key", "caption", "label") if name in batch}
        return {"video": self.sample(self.values(batch), seeds=seeds), "seed": seeds, **about}

    def on_test_start(self) -> None:
        """Opens the metrics: their networks are not part of the model, and training does not need them."""
        self.suite = MetricSuite(self.metrics, self.tested, self.preset).to(self.device)

    def on_test_end(self) -> None:
        """Deletes the metrics, to free their memory."""
        del self.suite

    def clips(self, batch: dict[str, Any]) -> Tensor:
        """The clips of a test batch, `(B, C, T, H, W)`, uint8; in the shape that the model was built for."""
        if "video" not in batch:
            raise InputError("data: testing needs videos, these are latent shards; give data.test_shards of videos")
        video = batch["video"]
        return video if video.dtype == torch.uint8 else to_uint8(self.clip_range.pixels(video))

    @cached_property
    def clip_range(self) -> ClipRange:
        """The range of float clips."""
        return ClipRange()

    def on_test_batch_start(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Completes the batch."""
        complete(batch, self.trainer.global_rank, batch_idx)

    def on_predict_batch_start(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Completes the batch."""
        complete(batch, self.trainer.global_rank, batch_idx)

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Updates the metrics with the clips and with videos generated for their captions or labels."""
        self.suite.update_real(self.clips(batch))
        if self.suite.asks(fake="generation"):
            video = self.sample(self.values(batch), seeds=seeds_of(batch))
            self.suite.update(video, "generation", captions=batch.get("caption"))

    def results(self) -> dict[str, dict[str, Any]]:
        """The results of a test: a record for each number, by the name that it is logged under."""
        return {f"{result['of'].replace(' ', '_')}/{result['metric']}": result for result in self.suite.results()}

    def on_test_epoch_end(self) -> None:
        """Logs the metrics, and writes `test.json` into the Trainer's folder: a record for each, with its protocol."""
        results = self.results()
        self.log_dict({f"test/{name}": result["value"] for name, result in results.items()}, rank_zero_only=True)
        made = {
            "files": list(self.sources),
            "weights": {name: sha for source in self.sources for name, sha in weights_sha256(source).items()},
            **self.made_with(),
            "seeds": "first four bytes of the sha256 of the clip's key",
            "precision": str(self.trainer.precision),
        }
        datamodule = self.trainer.datamodule  # type: ignore[attr-defined]  # Lightning sets it elsewhere
        data = getattr(datamodule, "describe", lambda: {"data": str(datamodule)})()
        protocol = {"model": made, "real": data} | provenance()
        if self.trainer.is_global_zero:
            path = Path(self.trainer.default_root_dir, "test.json")
            path.parent.mkdir(parents=True, exist_ok=True)
            with replaced(path) as draft:
                draft.write_text(json.dumps([result | protocol for result in results.values()], indent=2) + "\n")


def seeds_of(batch: dict[str, Any]) -> list[int]:
    """A seed for each sample of a batch, derived from its key."""
    return [int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "big") for key in batch["key"]]
