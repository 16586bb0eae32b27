"""The three trained stages together: generates over a DataModule, and is tested on one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule
from torch import Tensor
from torchmetrics import MeanMetric

from cmd_lightning.components.checkpoints import Stage, load_stage
from cmd_lightning.errors import InputError
from cmd_lightning.latent_space import from_uint8, to_uint8
from cmd_lightning.metrics.precision import OwnPrecision
from cmd_lightning.metrics.reconstruction import SCORES, scores
from cmd_lightning.metrics.suite import MetricSuite
from cmd_lightning.pipeline import CMDPipeline
from cmd_lightning.pretrained_text import StableDiffusionText
from cmd_lightning.provenance import fingerprint, provenance, weights_sha256
from cmd_lightning.zoo import model_folder

TESTED = {
    "reconstruction": ("frechet", "kernel", "lpips"),
    "motion prediction": ("frechet", "kernel"),
    "generation": ("frechet", "kernel", "is", "clipsim"),
}
"""What `test` measures: clips after the autoencoder, the true content frame with generated motion, and samples."""


class CMD(LightningModule):
    """Content-motion latent diffusion, for `test` and `predict`: a thin module over `CMDPipeline`.

    Give either a model or the checkpoints of the three stages.

    Args:
        model: Folder that `export` wrote, or a name of the zoo.
        autoencoder: Checkpoint of the autoencoder stage.
        content: Checkpoint of the content stage.
        motion: Checkpoint of the motion stage.
        steps: Denoising steps, one number or by stage; by default the model's own, else {content: 50, motion: 100}.
        guidance: Guidance scale, one number or by stage, 1 is none; by default the model's own, else
            {content: 4, motion: 1}.
        metrics: What `test` measures beside PSNR and SSIM of reconstructions, as `MetricSuite` names it. Distances are
            those of reconstructions, of true content frames with generated motion, and of samples, each from the test
            clips; `is` and CLIP similarities are of samples, lpips of reconstructions.
        preset: How clips are prepared for the I3D: "stylegan-v" by default, see `Protocol`.
    """

    def __init__(
        self,
        model: str | None = None,
        autoencoder: str | None = None,
        content: str | None = None,
        motion: str | None = None,
        steps: int | dict[str, int] | None = None,
        guidance: float | dict[str, float] | None = None,
        metrics: Sequence[str] = (),
        preset: str | None = None,
    ) -> None:
        super().__init__()
        self.sources = [path for path in (model and str(model_folder(model)), autoencoder, content, motion) if path]
        if model is not None:
            self.pipeline = CMDPipeline.from_pretrained(model)
        elif autoencoder and content and motion:
            self.pipeline = assemble(autoencoder, content, motion)
        else:
            raise InputError(
                "model: give model.model, a folder or zoo name, or three checkpoints: autoencoder, content, motion"
            )
        self.pipeline.set_progress_bar_config(disable=True)
        # Registered, so that Lightning moves them; the pipeline reads its device off them.
        self.networks = torch.nn.ModuleDict(
            {name: part for name, part in self.pipeline.components.items() if isinstance(part, torch.nn.Module)}
        )
        self.steps, self.guidance = steps, guidance
        self.suite = MetricSuite(metrics, TESTED, preset)
        self.scores = OwnPrecision({name: MeanMetric() for name in SCORES})

    def sample(
        self,
        condition: Sequence[str] | Sequence[int] | int,
        *,
        seeds: Sequence[int],
        steps: int | Mapping[str, int] | None = None,
        guidance: float | Mapping[str, float] | None = None,
    ) -> Tensor:
        """Videos `(B, C, T, H, W)`, uint8, for captions, class ids or a count; sample i draws from `seeds[i]` alone."""
        kind = {}
        if isinstance(condition, int):
            kind["num_videos_per_prompt"] = condition
        else:
            kind["prompt" if isinstance(condition[0], str) else "class_labels"] = list(condition)
        steps = self.steps if steps is None else steps
        guidance = self.guidance if guidance is None else guidance
        return self.pipeline(**kind, seeds=seeds, num_inference_steps=steps, guidance_scale=guidance).frames

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Any]:
        """Generates one video for each sample, from its caption or label; its seed is derived from its key."""
        seeds = _seeds(batch)
        return {"video": self.sample(self.values(batch), seeds=seeds), "seed": seeds, **_about(batch)}

    def values(self, batch: dict[str, Any]) -> list[str] | list[int] | int:
        """What the samples of a batch are generated from."""
        encoder = self.pipeline.encoders["content"]
        if encoder is None:
            return len(batch["key"])
        values = batch[encoder.field]
        return values.tolist() if isinstance(values, Tensor) else list(values)

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Scores the reconstruction of each clip beside what a still picture would reach, and feeds the metrics.

        Raises:
            InputError: The batch holds latents only, or clips of another shape than the model's.
        """
        if "video" not in batch:
            raise InputError("data: testing needs videos, these shards hold latents; give data.test_shards of videos")
        video = from_uint8(batch["video"])
        content, motion = self.pipeline.encode(video)
        reconstruction = self.pipeline.decode(content, motion)
        for name, value in scores(reconstruction, video).items():
            self.scores[name].update(value)
        self.suite.update_real(batch["video"])
        self.suite.update(to_uint8(reconstruction), "reconstruction", real=batch["video"])
        seeds, values = _seeds(batch), self.values(batch)
        if self.suite.asks(fake="motion prediction"):
            moved = self.pipeline.decode(content, self.generated_motion(content, values, seeds))
            self.suite.update(to_uint8(moved), "motion prediction")
        if self.suite.asks(fake="generation"):
            self.suite.update(self.sample(values, seeds=seeds), "generation", captions=batch["caption"])

    def on_test_epoch_end(self) -> None:
        """Logs the metrics, and writes `test.json` into the Trainer's folder: a record each, with its protocol."""
        sampling = {stage: self.pipeline.sampling(stage, self.steps, self.guidance) for stage in ("content", "motion")}
        made = {
            "files": [str(source) for source in self.sources],
            "weights": {name: sha for source in self.sources for name, sha in weights_sha256(source).items()},
            "averaged_weights": True,
            "sampling": {stage: {"steps": steps, "guidance": scale} for stage, (steps, scale) in sampling.items()},
            "seeds": "first four bytes of the sha256 of the clip's key",
            "precision": str(self.trainer.precision),
        }
        data = getattr(self.trainer.datamodule, "describe", lambda: {"data": str(self.trainer.datamodule)})()
        means = {name: metric.compute().item() for name, metric in self.scores.items()}
        results = self.suite.results()
        logged = {f"test/{result['of'].replace(' ', '_')}/{result['metric']}": result["value"] for result in results}
        self.log_dict({f"test/{name}": value for name, value in means.items()} | logged, rank_zero_only=True)
        records = [{"metric": name, "of": "reconstruction", "value": value} for name, value in means.items()] + results
        protocol = {"model": made, "real": data} | provenance()
        records = [record | protocol for record in records]
        if self.trainer.is_global_zero:
            path = Path(self.trainer.default_root_dir, "test.json")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(records, indent=2) + "\n")
        for metric in (self.suite, *self.scores.values()):
            metric.reset()

    def generated_motion(self, content: Tensor, values: list[str] | list[int] | int, seeds: Sequence[int]) -> Tensor:
        """Motion latents `(B, D, T, S)` sampled for content frames `(B, C, H, W)`; arguments as of `sample`."""
        sampling = self.pipeline.sampling("motion", self.steps, self.guidance)
        return self.pipeline.generate_motion(content, values, seeds, *sampling)

    @torch.no_grad()
    def preview(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Originals, their content frames and reconstructions, true content with sampled motion, and full samples."""
        video = from_uint8(batch["video"])
        content, motion = self.pipeline.encode(video)
        seeds, values = range(len(video)), self.values(batch)
        moved = self.generated_motion(content, values, seeds)
        return {
            "original": video,
            "content frame": self.pipeline.latent_space.decode(content[:, :, None]),
            "reconstruction": self.pipeline.decode(content, motion),
            "sampled motion": self.pipeline.decode(content, moved),
            "sample": from_uint8(self.sample(values, seeds=seeds)),
        }


def load_stages(autoencoder: str, content: str, motion: str) -> dict[str, Stage]:
    """The three stages by name, from their checkpoints, with their averaged weights.

    Raises:
        InputError: A checkpoint is missing or of another stage, or two were not trained on this autoencoder.
    """
    paths = {"autoencoder": autoencoder, "content": content, "motion": motion}
    stages = {name: load_stage(path, name, name) for name, path in paths.items()}
    own = fingerprint(stages["autoencoder"].parts["network"].state_dict())
    for name, path in (("content", content), ("motion", motion)):
        if stages[name].trained_on != own:
            raise InputError(
                f"{name} {path}: it was trained on the latents of another autoencoder than {autoencoder}; "
                "give the one it was trained on, or train it anew"
            )
    fields = {getattr(stage.parts.get("condition_encoder"), "field", None) for stage in stages.values()} - {None}
    if len(fields) > 1:
        raise InputError(
            f"content {content} and motion {motion}: one is conditioned on captions, the other on labels; "
            "give two of a kind"
        )
    return stages


def assemble(autoencoder: str, content: str, motion: str) -> CMDPipeline:
    """The pipeline of three checkpoints; raises as `load_stages` does."""
    return compose(load_stages(autoencoder, content, motion))


def compose(stages: Mapping[str, Stage]) -> CMDPipeline:
    """The pipeline of three stages, as `load_stages` gives them."""
    first = stages["autoencoder"]
    text, tokenizer = stages["content"].parts.get("condition_encoder"), None
    if isinstance(text, StableDiffusionText):  # its parts, as Stable Diffusion's tools look for them
        text, tokenizer = text.text_model, text.tokenizer
    return CMDPipeline(
        first.parts["network"],
        unet=stages["content"].parts["network"],
        scheduler=stages["content"].parts["scheduler"],
        text_encoder=text,
        tokenizer=tokenizer,
        vae=first.latent_space.vae,
        motion_model=stages["motion"].parts["network"],
        motion_scheduler=stages["motion"].parts["scheduler"],
        motion_text_encoder=stages["motion"].parts.get("condition_encoder"),
        video_shape=stages["motion"].video_shape,
        fps=first.fps,
    )


def _seeds(batch: dict[str, Any]) -> list[int]:
    return [int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "big") for key in batch["key"]]


def _about(batch: dict[str, Any]) -> dict[str, Any]:
    return {name: batch[name] for name in ("key", "caption", "label") if name in batch}
