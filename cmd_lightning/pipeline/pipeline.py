"""`CMDPipeline`: prompt or image in, video out."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from diffusers.loaders import StableDiffusionLoraLoaderMixin
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from torch import Tensor, nn

from cmd_lightning import compat
from cmd_lightning.conditioning import ConditionEncoder, Values
from cmd_lightning.diffusion.sampling import PerStage, chosen, given_content
from cmd_lightning.errors import InputWarning
from cmd_lightning.networks import AutoencoderNetwork, MotionModel
from cmd_lightning.pipeline.clips import Clip
from cmd_lightning.pipeline.control import GuidingImages
from cmd_lightning.pipeline.editing import Editing
from cmd_lightning.pipeline.folder import Folder
from cmd_lightning.pipeline.images import Image
from cmd_lightning.pipeline.input import Inputs, check_size
from cmd_lightning.pipeline.interpolation import Interpolation
from cmd_lightning.pipeline.longer import Longer
from cmd_lightning.pipeline.memory import LessMemory
from cmd_lightning.pipeline.output import CMDPipelineOutput, OutputType, check_output, to_output
from cmd_lightning.pipeline.prompt import Embeds
from cmd_lightning.pipeline.request import SCHEDULERS, Request, StageName
from cmd_lightning.pipeline.speed import FasterSampling
from cmd_lightning.pipeline.steps import StepCallback, Steps
from cmd_lightning.pipeline.transfer import Transfer

STEPS = {"content": 50, "motion": 100}
"""Denoising steps of the paper's quality figures (App. B.4)."""

GUIDANCE = {"content": 4.0, "motion": 1.0}
"""Guidance scales of the authors' class-conditional runs; the paper's w is this less one."""


class CMDPipeline(  # type: ignore[misc]  # Folder's methods extend those of diffusers, whose types differ
    Folder,
    LessMemory,
    FasterSampling,
    Inputs,
    Steps,
    Transfer,
    Interpolation,
    Longer,
    Editing,
    DiffusionPipeline,
    StableDiffusionLoraLoaderMixin,
):
    """Content-motion latent diffusion: a content frame, then its motion latent, then the video.

    It follows the conventions of diffusers' video pipelines; docs/pipeline.md lists them. The content parts have Stable
    Diffusion's names, so that its tools open them, and `load_lora_weights` loads its adapters. A part may be missing:
    without the content parts an image is required.

    Args:
        autoencoder: Splits clips into content frame and motion latent, and decodes these.
        unet: Denoises content frames: a stock `UNet2DConditionModel` or any `ContentModel`.
        scheduler: The content model's sampler.
        text_encoder: Encodes the condition of the content model: a `ConditionEncoder`, or with `tokenizer` that of
            Stable Diffusion; None if it has none.
        motion_model: Denoises motion latents.
        motion_scheduler: The motion model's sampler.
        motion_text_encoder: Encodes the condition of the motion model; None if it has none.
        tokenizer: The tokenizer of Stable Diffusion's text encoder; None for encoders that include one.
        vae: The image autoencoder of the latent space, see `FrameLatents`; None for pixels.
        controlnet: Guides the content model by images: a `ControlNetModel`, or a `MultiControlNetModel` of several.
        image_encoder: That of an IP-Adapter; `load_ip_adapter` sets it and its `feature_extractor`.
        feature_extractor: Prepares images for the image encoder.
        video_shape: `(C, T, H, W)` of the videos in the autoencoder's space.
        fps: Frames per second of the videos.
        steps: Default denoising steps of this model, by stage; the paper's if None.
        guidance: Default guidance scales, by stage; those of the authors' runs if None.
        averaged_weights: Whether the weights of each stage are averages over its training; None if not recorded.

    Examples:
        A model that is included, with few steps; without `num_inference_steps` it uses its own:

        >>> from cmd_lightning.pipeline import CMDPipeline
        >>> pipeline = CMDPipeline.from_pretrained("shapes32")
        >>> frames = pipeline("a red circle moves left", num_inference_steps=2, seeds=[0]).frames[0]
        >>> len(frames), frames[0].size
        (16, (32, 32))
    """

    config: Any
    model_cpu_offload_seq: Any = (
        "text_encoder->motion_text_encoder->image_encoder->unet->motion_model->autoencoder->vae"
    )
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
        "controlnet",
        "image_encoder",
        "feature_extractor",
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
        controlnet: nn.Module | None = None,
        image_encoder: nn.Module | None = None,
        feature_extractor: Any = None,
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
            controlnet=controlnet,
            image_encoder=image_encoder,
            feature_extractor=feature_extractor,
        )
        self.register_to_config(
            video_shape=list(video_shape), fps=fps, steps=steps, guidance=guidance, averaged_weights=averaged_weights
        )

    def sampling(self, stage: StageName, steps: PerStage = None, guidance: PerStage = None) -> tuple[int, float]:
        """Denoising steps and guidance scale of a stage: as given, otherwise the model's, otherwise the paper's.

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
            InputError: The model needs another kind of condition, or a number is out of range.
        """
        return self._generate_content(self._begin(Request(values, seeds, steps, guidance)))

    @torch.no_grad()
    def generate_motion(
        self, content: Tensor, values: Values, seeds: Sequence[int], steps: PerStage = None, guidance: PerStage = None
    ) -> Tensor:
        """Motion latents `(B, D, T, S)` for `content` `(B, C, H, W)`; raises as `generate_content` does."""
        return self._generate_motion(content, self._begin(Request(values, seeds, steps, guidance)))

    def _generate_content(self, request: Request) -> Tensor:
        known = request.known.get("content")
        if known is not None and not known.strength:
            return known.clean
        content = self._denoise("content", self._content_denoiser(request), self.latent_spec.content, request, known)
        return content if known is None else known.restore(content, known.clean.to(content))

    def _generate_motion(self, content: Tensor, request: Request) -> Tensor:
        known, normal = request.known.get("motion"), None
        if known is not None:
            if not known.strength:
                return known.clean
            clean = known.clean.to(self.autoencoder.motion_mean)
            normal = replace(known, clean=self.autoencoder.normalize_motion(clean))
        network = self.motion_model
        denoiser = given_content(network, content.to(compat.execution_device(network), network.dtype))
        normalized = self._denoise("motion", denoiser, self.latent_spec.motion, request, normal)
        motion = self.autoencoder.denormalize_motion(normalized)
        return motion if known is None else known.restore(motion, known.clean.to(motion))

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | Sequence[str] | None = None,
        class_labels: int | Sequence[int] | None = None,
        image: Image | Sequence[Image] | None = None,
        video: Clip | Sequence[Clip] | None = None,
        strength: PerStage = None,
        negative_prompt: str | Sequence[str] | None = None,
        height: int | None = None,
        width: int | None = None,
        num_frames: int | None = None,
        num_inference_steps: int | Mapping[str, int] | None = None,
        guidance_scale: PerStage = None,
        guidance_rescale: float = 0.0,
        num_videos_per_prompt: int = 1,
        seeds: Sequence[int] | None = None,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        latents: Tensor | Mapping[str, Tensor] | None = None,
        content: Tensor | None = None,
        motion: Tensor | None = None,
        keep: Mapping[str, Tensor] | None = None,
        prompt_embeds: Embeds = None,
        negative_prompt_embeds: Embeds = None,
        output_type: OutputType = "pil",
        return_dict: bool = True,
        attention_kwargs: Mapping[str, Any] | None = None,
        control_image: Image | Sequence[Image] | None = None,
        controlnet_conditioning_scale: float | Sequence[float] = 1.0,
        control_guidance_start: float | Sequence[float] = 0.0,
        control_guidance_end: float | Sequence[float] = 1.0,
        ip_adapter_image: Image | Sequence[Image] | None = None,
        ip_adapter_image_embeds: Sequence[Tensor] | None = None,
        callback_on_step_end: StepCallback | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
    ) -> CMDPipelineOutput | tuple:
        """Generates videos.

        Args:
            prompt: One caption or several, for a model of captions.
            class_labels: One class id or several, for a model of classes.
            image: An image to animate, or several: PIL images, paths, URLs, arrays `(H, W, 3)` or tensors
                `(3, H, W)`, uint8 or floats in [0, 1]. Those of another size than the model's are resized and cropped,
                see `fit_image`. The content model is not run.
            video: A clip to change, or several, see `Clip`: both its latents are noised by `strength` and denoised.
            strength: How much to change given latents, one number or {"content": ..., "motion": ...}: the share of the
                denoising steps that run. 0 keeps them, 1 generates them from scratch. By default 0.75 for
                `video`, 1 with `keep`, else 0.
            negative_prompt: Negative prompt for guidance, one for all prompts or one for each; by default empty.
            height: Height in pixels; only the model's is allowed.
            width: Width in pixels; only the model's is allowed.
            num_frames: Frames of a video; only the model's number is allowed.
            num_inference_steps: Denoising steps, one number or {"content": ..., "motion": ...}; by default the
                model's own, else 50 and 100.
            guidance_scale: Guidance scale, one number or a mapping as above; 1 or less disables it; by default the
                model's own, else 4 and 1.
            guidance_rescale: See `Guided`; 0 to 1.
            num_videos_per_prompt: Videos for each prompt, class or image (of an unconditional model: in all).
            seeds: One seed for each video, which depends on no other. Random from `generator` if not given.
            generator: Source of seeds, or one for each video; by default torch's global one.
            latents: Standard normal noise to start from, `(B, *shape)` by stage, see `latent_spec`; a single tensor is
                for the first stage that runs.
            content: Content frames `(B, C, H, W)`, as in the output or from `encode_clips`; the content model is not
                run, unless `strength` is above 0.
            motion: Motion latents `(B, D, T, S)`, as in the output or from `encode_clips`; the motion model is not run,
                unless `strength` is above 0.
            keep: Where to keep given latents while the rest is denoised, by stage: bool, broadcast to them.
            prompt_embeds: Encoded prompts instead of `prompt`, as returned by `encode_prompt`; see `Embeds`.
            negative_prompt_embeds: Encoded negative prompts, in the same forms.
            output_type: "pil", "np", "pt" or "latent", see `CMDPipelineOutput`.
            return_dict: Whether to return a `CMDPipelineOutput` or the tuple of its fields.
            attention_kwargs: Arguments for the attention processors of a Stable Diffusion U-Net, such as
                {"scale": 0.5} for LoRA adapters.
            control_image: Images for `controlnet`: one for all prompts, or one for each; a list of these for several
                ControlNets.
            controlnet_conditioning_scale: Weight of the ControlNet; 0 disables it. A number for each ControlNet, or one
                for all, as for the next two.
            control_guidance_start: Share of the content steps after which the ControlNet starts.
            control_guidance_end: Share of the content steps after which the ControlNet stops.
            ip_adapter_image: The image prompt of all videos, for `load_ip_adapter`; a list with one for each
                IP-Adapter if there are several, where a list in it is several images for one.
            ip_adapter_image_embeds: Encoded images instead, see `prepare_ip_adapter_image_embeds`.
            callback_on_step_end: See `StepCallback`; `stage` is the stage that runs. If the content stage is
                interrupted, the video shows the unfinished content frame without motion.
            callback_on_step_end_tensor_inputs: Its tensors: "latents", "prompt_embeds", "negative_prompt_embeds".

        Raises:
            InputError: An argument is wrong, or conflicts with the model or other arguments.

        Warns:
            InputWarning: A prompt is empty, is truncated, or has unknown words; an image is resized. The output has the
                same text for each video.
        """
        check_output(output_type)
        check_size((self.config.video_shape[1], *self.size), num_frames, height, width)
        request = self._request(
            prompt=prompt,
            class_labels=class_labels,
            image=image,
            negative_prompt=negative_prompt,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            guidance_rescale=guidance_rescale,
            num_videos_per_prompt=num_videos_per_prompt,
            seeds=seeds,
            generator=generator,
            latents=latents,
            video=video,
            content=content,
            motion=motion,
            strength=strength,
            keep=keep,
            prompt_embeds=prompt_embeds,
            negative_prompt_embeds=negative_prompt_embeds,
            attention_kwargs=attention_kwargs,
            guiding=GuidingImages(
                control_image,
                controlnet_conditioning_scale,
                control_guidance_start,
                control_guidance_end,
                ip_adapter_image,
                ip_adapter_image_embeds,
            ),
        )
        self._begin(request, callback_on_step_end, callback_on_step_end_tensor_inputs)
        for note in dict.fromkeys(note for notes in request.notes for note in notes):
            warnings.warn(note, InputWarning, stacklevel=3)  # past `torch.no_grad`
        content = self._generate_content(request)
        if self._interrupt and "motion" not in request.known:
            motion = self.autoencoder.denormalize_motion(content.new_zeros(len(content), *self.latent_spec.motion))
        else:
            motion = self._generate_motion(content, request)
        videos = motion if output_type == "latent" else to_output(self.decode(content, motion), output_type)
        self.maybe_free_model_hooks()
        output = CMDPipelineOutput(videos, content, list(request.seeds), list(request.notes))
        return output if return_dict else output.to_tuple()
