"""`CMDPipeline`: prompt or picture in, video out."""

from __future__ import annotations

import functools
import json
import os
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from diffusers.loaders import StableDiffusionLoraLoaderMixin
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from torch import Tensor, nn

from cmd_lightning.conditioning import ConditionEncoder, Values, count_videos, encode_condition, remarks
from cmd_lightning.diffusion.sampling import Denoiser, PerStage, chosen, denoise, given_content, seeded_noise
from cmd_lightning.errors import InputError, InputWarning
from cmd_lightning.faster_sampling import FasterSampling
from cmd_lightning.latent_space import FrameLatents, LatentSpace, Pixels, shape_text
from cmd_lightning.networks import AutoencoderNetwork, MotionModel
from cmd_lightning.networks.classes import load_class
from cmd_lightning.networks.stock import predict_content
from cmd_lightning.pipeline_input import fit_images
from cmd_lightning.pipeline_output import CMDPipelineOutput, to_output
from cmd_lightning.pretrained_text import StableDiffusionText
from cmd_lightning.zoo import model_folder

StageName = Literal["content", "motion"]

NETWORKS = {"content": "unet", "motion": "motion_model"}
SCHEDULERS = {"content": "scheduler", "motion": "motion_scheduler"}
"""The parts of each stage."""

STEPS = {"content": 50, "motion": 100}
"""Denoising steps of the paper's quality figures (App. B.4)."""

GUIDANCE = {"content": 4.0, "motion": 1.0}
"""Guidance scales of the authors' class-conditional runs; the paper's w is this less one."""


class CMDPipeline(FasterSampling, DiffusionPipeline, StableDiffusionLoraLoaderMixin):
    """Content-motion latent diffusion: a content frame, then its motion latent, then the video.

    The content parts bear Stable Diffusion's names, so that its tools open them, and `load_lora_weights` takes its
    adapters. A part may be missing: without the content parts a picture must be given.

    Args:
        autoencoder: Splits clips and puts them together.
        unet: Denoises content frames: a stock `UNet2DConditionModel` or any `ContentModel`.
        scheduler: The content model's sampler.
        text_encoder: Encodes the condition of the content model: a `ConditionEncoder`, or with `tokenizer` that of
            Stable Diffusion; None if it has none.
        motion_model: Denoises motion latents.
        motion_scheduler: The motion model's sampler.
        motion_text_encoder: Encodes the condition of the motion model; None if it has none.
        tokenizer: The tokenizer of Stable Diffusion's text encoder; None for encoders that bring their own.
        vae: The image autoencoder of the latent space, as `FrameLatents` takes it; None for pixels.
        video_shape: `(C, T, H, W)` of the videos in the autoencoder's space.
        fps: Frames a second of the videos.
        steps: Denoising steps of this model where none are given, by stage; the paper's if None.
        guidance: Guidance scales where none are given, by stage; those of the authors' runs if None.
        averaged_weights: Whether the weights of each stage are averages over its training; None where not recorded.
    """

    config: Any
    model_cpu_offload_seq: Any = "text_encoder->motion_text_encoder->unet->motion_model->autoencoder->vae"
    _optional_components = [  # noqa: RUF012 (diffusers' own spelling)
        "autoencoder",
        "unet",
        "scheduler",
        "text_encoder",
        "motion_model",
        "motion_scheduler",
        "motion_text_encoder",
        "tokenizer",
        "vae",
    ]

    def __init__(
        self,
        autoencoder: AutoencoderNetwork,
        unet: nn.Module | None = None,
        scheduler: SchedulerMixin | None = None,
        text_encoder: ConditionEncoder | nn.Module | None = None,
        motion_model: MotionModel | None = None,
        motion_scheduler: SchedulerMixin | None = None,
        motion_text_encoder: ConditionEncoder | None = None,
        tokenizer: Any = None,
        vae: nn.Module | None = None,
        video_shape: list[int] | tuple[int, ...] = (3, 16, 64, 64),
        fps: float = 8.0,
        steps: dict[str, int] | None = None,
        guidance: dict[str, float] | None = None,
        averaged_weights: dict[str, bool] | None = None,
    ) -> None:
        super().__init__()
        self.register_modules(
            autoencoder=autoencoder,
            unet=unet,
            scheduler=scheduler,
            text_encoder=text_encoder,
            motion_model=motion_model,
            motion_scheduler=motion_scheduler,
            motion_text_encoder=motion_text_encoder,
            tokenizer=tokenizer,
            vae=vae,
        )
        self.register_to_config(
            video_shape=list(video_shape), fps=fps, steps=steps, guidance=guidance, averaged_weights=averaged_weights
        )
        self._latent_space: LatentSpace = Pixels()
        self._text: StableDiffusionText | None = None

    @property
    def latent_space(self) -> LatentSpace:  # type: ignore[override]  # the base class only declares it
        """The space of the autoencoder: that of `vae`, on its device."""
        if self._latent_space.vae is not self.vae:
            self._latent_space = Pixels() if self.vae is None else FrameLatents(self.vae)
        return self._latent_space

    @property
    def frames(self) -> LatentSpace:
        """What decodes frames: the latent space, or what `use_frame_decoder` put in its place."""
        return self._frame_decoder or self.latent_space

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the videos in pixels."""
        height, width = self.config.video_shape[2:]
        return height * self.latent_space.factor, width * self.latent_space.factor

    @classmethod
    def from_pretrained(  # type: ignore[override]  # diffusers says nothing of its return type
        cls, model: str | os.PathLike[str], **kwargs: Any
    ) -> CMDPipeline:
        """Opens a folder that `save_pretrained` or `cmd-lightning export` wrote, or a model that ships.

        Weights are float32, also those that were stored in half precision, unless a dtype is given.

        Args:
            model: The folder, or a name of the zoo.
            **kwargs: As for any diffusers pipeline; a part given by name replaces the folder's.

        Raises:
            InputError: There is no such model, the folder is no CMD pipeline, or a part is of a third party's class
                that is not imported.
        """
        folder = model_folder(model)
        described = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
        # diffusers opens its own and transformers' classes; ours are opened here, and others' refused by name.
        settings = {name: kwargs[name] for name in ("dtype", "torch_dtype", "variant") if name in kwargs}
        parts = {name: kwargs.pop(name) for name in cls._optional_components if name in kwargs}
        for name in set(cls._optional_components) - set(parts):
            library, class_name = described.get(name) or (None, None)
            if isinstance(library, str) and library not in ("diffusers", "transformers"):
                part: Any = load_class(f"{library}.{class_name}")
                parts[name] = part.from_pretrained(folder, subfolder=name, **settings)
        pipeline = super().from_pretrained(folder, **kwargs, **dict.fromkeys(parts))
        pipeline.register_modules(**parts)
        if not {"dtype", "torch_dtype"} & kwargs.keys():
            for part in pipeline.components.values():  # transformers leaves them as they were stored
                if isinstance(part, nn.Module):
                    nn.Module.float(part)
        return pipeline

    def save_pretrained(self, save_directory: str | os.PathLike[str], *args: Any, **kwargs: Any) -> None:
        """As for any diffusers pipeline; classes of other packages are recorded with the full name of their module.

        diffusers takes `my_package.dit.model` for a module of its own pipeline `dit`, and records that name.
        """
        for name, part in self.components.items():
            module = type(part).__module__
            if part is not None and module.partition(".")[0] not in ("diffusers", "torch", "transformers"):
                self.register_to_config(**{name: (module, type(part).__name__)})
        super().save_pretrained(save_directory, *args, **kwargs)

    @property
    def encoders(self) -> dict[StageName, ConditionEncoder | None]:
        """The condition encoder of each stage."""
        content = self.text_encoder
        if content is not None and not isinstance(content, ConditionEncoder):
            if self._text is None or self._text.text_model is not content:
                self._text = StableDiffusionText.of(content, self.tokenizer)
            content = self._text
        return {"content": content, "motion": self.motion_text_encoder}

    def sampling(self, stage: StageName, steps: PerStage = None, guidance: PerStage = None) -> tuple[int, float]:
        """Denoising steps and guidance scale of a stage: what is given, else the model's own, else the paper's.

        Raises:
            InputError: A number is out of range.
        """
        own = STEPS | (self.config.steps or {}), GUIDANCE | (self.config.guidance or {})
        return chosen(stage, steps, guidance, *own, getattr(self, SCHEDULERS[stage]))

    @torch.no_grad()
    def generate_content(
        self, values: Values, seeds: Sequence[int], steps: PerStage = None, guidance: PerStage = None
    ) -> Tensor:
        """Content frames `(B, C, H, W)` for captions, class ids or a count.

        Raises:
            InputError: The model wants another kind of condition, or a number is out of range.
        """
        noise = seeded_noise(self.autoencoder.latent_spec(tuple(self.config.video_shape)).content, seeds, stream=0)
        denoiser = functools.partial(predict_content, self.unet)
        return self._denoise("content", denoiser, values, noise, steps, guidance)

    @torch.no_grad()
    def generate_motion(
        self, content: Tensor, values: Values, seeds: Sequence[int], steps: PerStage = None, guidance: PerStage = None
    ) -> Tensor:
        """Motion latents `(B, D, T, S)` that go with `content` `(B, C, H, W)`; raises as `generate_content` does."""
        noise = seeded_noise(self.autoencoder.latent_spec(tuple(self.config.video_shape)).motion, seeds, stream=1)
        denoiser = given_content(self.motion_model, content.to(self.device, self.motion_model.dtype))
        motion = self._denoise("motion", denoiser, values, noise, steps, guidance)
        return self.autoencoder.denormalize_motion(motion)

    def _denoise(
        self, stage: StageName, denoiser: Denoiser, values: Values, noise: Tensor, steps: PerStage, guidance: PerStage
    ) -> Tensor:
        """From noise to a sample, both in float32, by the denoiser of a stage."""
        number, scale = self.sampling(stage, steps, guidance)
        dtype, scheduler = getattr(self, NETWORKS[stage]).dtype, getattr(self, SCHEDULERS[stage])
        conditions = encode_condition(self.encoders[stage], values, scale, stage)
        with self.progress_bar(total=number) as bar:
            bar.set_description(stage)
            return denoise(denoiser, dtype, conditions, scale, scheduler, noise.to(self.device), number, bar.update)

    @torch.no_grad()
    def decode(self, content: Tensor, motion: Tensor) -> Tensor:
        """The video `(B, C, T, H, W)` in [-1, 1] of content frames and motion latents."""
        dtype = self.autoencoder.dtype
        return self.frames.decode(self.autoencoder.decode(content.to(dtype), motion.to(dtype)))

    @torch.no_grad()
    def encode(self, video: Tensor) -> tuple[Tensor, Tensor]:
        """Content frames and motion latents of videos `(B, 3, T, H, W)` in [-1, 1].

        Raises:
            InputError: They are of another size or length than the model's.
        """
        space = self.latent_space
        latent = space.encode(video.to(self.device, self.autoencoder.dtype))
        if tuple(latent.shape[1:]) != (expected := tuple(self.config.video_shape)):
            raise InputError(
                f"videos of {shape_text(tuple(latent.shape[1:]), space.factor)}, the model makes "
                f"{shape_text(expected, space.factor)}; give such, in training configs by data.num_frames and data.size"
            )
        return self.autoencoder.encode(latent)

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | Sequence[str] | None = None,
        class_labels: int | Sequence[int] | None = None,
        image: Tensor | Sequence[Tensor] | None = None,
        num_videos_per_prompt: int = 1,
        seeds: Sequence[int] | None = None,
        generator: torch.Generator | None = None,
        num_inference_steps: int | Mapping[str, int] | None = None,
        guidance_scale: PerStage = None,
        output_type: Literal["pt", "np", "pil"] = "pt",
        return_dict: bool = True,
    ) -> CMDPipelineOutput | tuple:
        """Generates videos.

        Args:
            prompt: One caption or several, for a model of captions.
            class_labels: One class id or several, for a model of classes.
            image: Images `(B, 3, H, W)` in [-1, 1] to set in motion, or a list of `(3, H, W)`; those of another size
                than the model's are resized and cropped, see `fit_image`. The content model is not run.
            num_videos_per_prompt: Videos for each prompt, class or picture (of an unconditional model: in all).
            seeds: One seed for each video; a video depends on its own alone. Drawn from `generator` if not given.
            generator: Source of seeds, by default torch's global one.
            num_inference_steps: Denoising steps, one number or {"content": ..., "motion": ...}; by default the
                model's own, else 50 and 100.
            guidance_scale: Guidance scale, one number or a mapping likewise, 1 is none; by default the model's own,
                else 4 and 1.
            output_type: "pt" (uint8), "np" (floats in [0, 1]) or "pil".
            return_dict: Whether to return a `CMDPipelineOutput` or the tuple of its fields.

        Warns:
            InputWarning: A prompt is empty, is cut, or has words that training never showed; an image is resized. The
                output has the same text for each video.
        """
        if prompt is not None and class_labels is not None:
            raise InputError("`prompt` and `class_labels`: give one of the two")
        given = prompt if prompt is not None else class_labels
        images, resized = (None, []) if image is None else fit_images(image, self.size)
        values: Values = num_videos_per_prompt * (1 if images is None else len(images))
        if given is not None:
            each: Any = [given] if isinstance(given, str | int) else given
            values = [value for value in each for _ in range(num_videos_per_prompt)]
        count = count_videos(values, self.encoders.values(), seeds)
        if seeds is None:
            seeds = torch.randint(2**31, (count,), generator=generator).tolist()
        if images is not None and count != len(images) * num_videos_per_prompt:
            raise InputError(f"image: {len(images)} given for {count // num_videos_per_prompt} prompts; give as many")
        stages: tuple[StageName, ...] = ("content", "motion") if images is None else ("motion",)
        notes = [self.remarks(value, stages) for value in values] if isinstance(values, list) else [[]] * count
        if resized:
            notes = [[*own, *resized[i // num_videos_per_prompt]] for i, own in enumerate(notes)]
        for note in dict.fromkeys(note for own in notes for note in own):
            warnings.warn(note, InputWarning, stacklevel=3)  # past `torch.no_grad`
        sampling = {stage: self.sampling(stage, num_inference_steps, guidance_scale) for stage in stages}
        if images is not None:
            content = self._content_of(images).repeat_interleave(num_videos_per_prompt, dim=0)
        else:
            content = self.generate_content(values, seeds, *sampling["content"])
        motion = self.generate_motion(content, values, seeds, *sampling["motion"])
        frames = to_output(self.decode(content, motion), output_type)
        self.maybe_free_model_hooks()
        output = CMDPipelineOutput(frames, content, list(seeds), notes)
        return output if return_dict else output.to_tuple()

    def remarks(self, value: str | int, stages: Sequence[StageName] = ("content", "motion")) -> list[str]:
        """The parts of a prompt that the stages do not use, one sentence each: truncated text and unknown words."""
        return remarks((self.encoders[stage] for stage in stages), value) if isinstance(value, str) else []

    def _content_of(self, images: Tensor) -> Tensor:
        """The content frame of an image: that of a clip in which it stands still."""
        return self.encode(images[:, :, None].repeat(1, 1, self.config.video_shape[1], 1, 1))[0]
