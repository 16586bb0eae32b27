"""The three trained stages together: generates videos for a DataModule, and is tested on one."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torchmetrics import MeanMetric

from cmd_lightning.components.checkpoints import Stage, load_stage
from cmd_lightning.components.video_model import VideoModel, seeds_of
from cmd_lightning.conditioning import Values, values_of
from cmd_lightning.diffusion.sampling import PerStage
from cmd_lightning.errors import InputError, InputWarning
from cmd_lightning.latent_space import content_row, from_uint8, to_uint8
from cmd_lightning.metrics.precision import OwnPrecision
from cmd_lightning.metrics.reconstruction import SCORES, scores
from cmd_lightning.pipeline import CMDPipeline
from cmd_lightning.pretrained_text import StableDiffusionText
from cmd_lightning.provenance import fingerprint
from cmd_lightning.zoo import model_folder


class CMD(VideoModel):
    """Content-motion latent diffusion for `test` and `predict`, a thin wrapper of `CMDPipeline`.

    Give either a model or the three stages.

    Args:
        model: Folder that `export` wrote, or a name of the zoo.
        autoencoder: Checkpoint of the autoencoder stage, or the model to take it from.
        content: The same for the content stage.
        motion: The same for the motion stage.
        steps: Denoising steps, one number or by stage; by default the model's own, else {content: 50, motion: 100}.
        guidance: Guidance scale, one number or by stage, 1 or less disables it; by default the model's own, else
            {content: 4, motion: 1}.
        metrics: Metrics of `test` besides PSNR and SSIM of reconstructions, by their names in `MetricSuite`. Distances
            compare reconstructions, true content frames with generated motion, and samples with the test clips; `is`
            and CLIP similarities measure samples, lpips reconstructions.
        preset: How clips are prepared for the I3D: "stylegan-v" by default, see `Preparation`.

    Examples:
        A model that is included, with few steps:

        >>> from cmd_lightning.components import CMD
        >>> model = CMD(model="shapes32", steps=2)
        >>> model.sample(["a red circle moves left", "a large blue square moves up"], seeds=[0, 1]).shape
        torch.Size([2, 3, 16, 32, 32])
    """

    # Reconstructions, the true content frame with generated motion, and samples.
    tested: ClassVar[Mapping[str, Sequence[str]]] = {
        "reconstruction": ("frechet", "kernel", "lpips"),
        "motion prediction": ("frechet", "kernel"),
        **VideoModel.tested,
    }

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
            self.pipeline = compose(load_stages(autoencoder, content, motion))
        else:
            raise InputError(
                "model: give model.model, a folder or zoo name, or three checkpoints: autoencoder, content, motion"
            )
        self.pipeline.set_progress_bar_config(disable=True)
        # Registered, so that Lightning moves them, and with them the pipeline.
        self.networks = torch.nn.ModuleDict(
            {name: part for name, part in self.pipeline.components.items() if isinstance(part, torch.nn.Module)}
        )
        self.fps = self.pipeline.config.fps
        self.steps, self.guidance = steps, guidance
        self.metrics, self.preset = metrics, preset
        self.scores: Any = OwnPrecision({name: MeanMetric() for name in SCORES})

    def sample(
        self, condition: Values, *, seeds: Sequence[int], steps: PerStage = None, guidance: PerStage = None
    ) -> Tensor:
        kind: dict[str, Any] = {}
        if isinstance(condition, int):
            kind["num_videos_per_prompt"] = condition
        else:
            kind["prompt" if isinstance(condition[0], str) else "class_labels"] = list(condition)
        kind["num_inference_steps"] = self.steps if steps is None else steps
        kind["guidance_scale"] = self.guidance if guidance is None else guidance
        with warnings.catch_warnings(action="ignore", category=InputWarning):  # one per caption of a data set
            motion, content, *_ = self.pipeline(**kind, seeds=seeds, output_type="latent", return_dict=False)
        return to_uint8(self.pipeline.decode(content, motion))

    def values(self, batch: dict[str, Any]) -> list[str] | list[int] | int:
        return values_of(batch, self.pipeline.encoders["content"])

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Scores the reconstruction of each clip, and still images for comparison, and updates the metrics."""
        clips = self.clips(batch)
        video = from_uint8(clips)
        content, motion = self.pipeline.encode(video)
        reconstruction = self.pipeline.decode(content, motion)
        for name, value in scores(reconstruction, video).items():
            self.scores[name].update(value)
        self.suite.update(to_uint8(reconstruction), "reconstruction", real=clips)
        if self.suite.asks(fake="motion prediction"):
            given = content, self.values(batch), seeds_of(batch)
            moved = self.pipeline.generate_motion(*given, self.steps, self.guidance)
            self.suite.update(to_uint8(self.pipeline.decode(content, moved)), "motion prediction")
        super().test_step(batch, batch_idx)

    def results(self) -> dict[str, dict[str, Any]]:
        of_reconstructions = {
            name: {"metric": name, "of": "reconstruction", "value": mean.compute().item()}
            for name, mean in self.scores.items()
        }
        return of_reconstructions | super().results()

    def made_with(self) -> dict[str, Any]:
        sampling = {stage: self.pipeline.sampling(stage, self.steps, self.guidance) for stage in ("content", "motion")}
        return {
            "averaged_weights": self.pipeline.config.averaged_weights,
            "sampling": {stage: {"steps": steps, "guidance": scale} for stage, (steps, scale) in sampling.items()},
        }

    def on_test_end(self) -> None:
        super().on_test_end()
        for metric in self.scores.values():
            metric.reset()

    @torch.no_grad()
    def preview(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Originals, content frames, reconstructions, true content frames with sampled motion, and full samples."""
        video = from_uint8(self.clips(batch))
        content, motion = self.pipeline.encode(video)
        seeds, values = range(len(video)), self.values(batch)
        moved = self.pipeline.generate_motion(content, values, seeds, self.steps, self.guidance)
        return {
            "original": video,
            **content_row(self.pipeline.latent_space, content, self.pipeline.config.video_shape[0]),
            "reconstruction": self.pipeline.decode(content, motion),
            "sampled motion": self.pipeline.decode(content, moved),
            "sample": from_uint8(self.sample(values, seeds=seeds)),
        }


def load_stages(autoencoder: str, content: str, motion: str) -> dict[str, Stage]:
    """The three stages by name, from their checkpoints or models, with their averaged weights.

    Raises:
        InputError: A checkpoint is missing or of another stage, or was not trained on this autoencoder.
    """
    paths = {"autoencoder": autoencoder, "content": content, "motion": motion}
    stages = {name: load_stage(path, name, name) for name, path in paths.items()}
    network = stages["autoencoder"].parts["network"]
    own = fingerprint(network.state_dict())
    for name, path, fits in (("content", content, network.content_source or own), ("motion", motion, own)):
        if stages[name].trained_on != fits:
            raise InputError(
                f"{name} {path}: it was trained on the latents of another autoencoder than {autoencoder}; "
                "give the one it was trained on, or train it again"
            )
    fields = {getattr(stage.parts.get("condition_encoder"), "field", None) for stage in stages.values()} - {None}
    if len(fields) > 1:
        raise InputError(
            f"content {content} and motion {motion}: one is conditioned on captions, the other on labels; "
            "give two of the same kind"
        )
    return stages


def compose(stages: Mapping[str, Stage]) -> CMDPipeline:
    """The pipeline of three stages from `load_stages`."""
    first = stages["autoencoder"]
    text: Any = stages["content"].parts.get("condition_encoder")
    tokenizer = None
    if isinstance(text, StableDiffusionText):  # its parts, where Stable Diffusion's tools expect them
        text, tokenizer = text.text_model, text.tokenizer
    own: dict[str, Any] = {
        option: {name: stage.sampling[option] for name, stage in stages.items() if option in stage.sampling} or None
        for option in ("steps", "guidance")
    }
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
        averaged_weights={name: stage.averaged for name, stage in stages.items()},
        **own,
    )
