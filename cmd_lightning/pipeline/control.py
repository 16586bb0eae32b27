"""Images that guide the content frame: ControlNet and IP-Adapter, through diffusers' own classes."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from diffusers.loaders import IPAdapterMixin
from diffusers.models.controlnets.controlnet import ControlNetModel
from diffusers.models.controlnets.multicontrolnet import MultiControlNetModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor

from cmd_lightning import compat
from cmd_lightning.diffusion.sampling import Denoiser
from cmd_lightning.errors import InputError, reason
from cmd_lightning.networks import Condition
from cmd_lightning.networks.classes import plain
from cmd_lightning.networks.stock import predict_content, stock_tokens
from cmd_lightning.pipeline.images import Image, fit_image, fit_images, tensors_of
from cmd_lightning.pipeline.latents import Latents
from cmd_lightning.pipeline.request import Control, Request

SHARED = ("in_channels", "cross_attention_dim", "block_out_channels", "layers_per_block")
"""Settings that a ControlNet must share with its U-Net."""


@dataclass(frozen=True)
class GuidingImages:
    """The arguments of a call that guide the content frame by images; `CMDPipeline.__call__` describes them."""

    control_image: Image | Sequence[Image] | None = None
    controlnet_conditioning_scale: float | Sequence[float] = 1.0
    control_guidance_start: float | Sequence[float] = 0.0
    control_guidance_end: float | Sequence[float] = 1.0
    ip_adapter_image: Image | Sequence[Image] | None = None
    ip_adapter_image_embeds: Sequence[Tensor] | None = None

    @property
    def given(self) -> str | None:
        """The name of the first image argument that is given."""
        names = ("control_image", "ip_adapter_image", "ip_adapter_image_embeds")
        return next((name for name in names if getattr(self, name) is not None), None)


class Controlled(Latents, IPAdapterMixin):
    """The part of `CMDPipeline` that guides the content frame by images."""

    unet: Any
    controlnet: Any
    image_encoder: Any
    feature_extractor: Any
    register_modules: Any

    def load_ip_adapter(self, *args: Any, **kwargs: Any) -> None:
        """As for any diffusers pipeline; if it fails, all parts stay unchanged.

        Raises:
            InputError: The content model is not a Stable Diffusion U-Net, or the adapter is for another one.
        """
        unet = stable_unet(self.unet, "load_ip_adapter")
        parts = {"image_encoder": self.image_encoder, "feature_extractor": self.feature_extractor}
        processors, projection = unet.attn_processors, unet.encoder_hid_proj
        try:
            super().load_ip_adapter(*args, **kwargs)
        except Exception as error:  # of many kinds: of files, of shapes, of missing keys
            unet.set_attn_processor(processors)
            unet.encoder_hid_proj = projection
            self.register_modules(**parts)
            raise InputError(
                f"`load_ip_adapter`: it cannot be used with this content model ({reason(error)}); give an IP-Adapter "
                "that was made for it"
            ) from error

    def set_ip_adapter_scale(self, scale: Any) -> None:
        """As for any diffusers pipeline: 1 by default; 0 equals no adapter, bit for bit."""
        stable_unet(self.unet, "set_ip_adapter_scale")
        super().set_ip_adapter_scale(scale)

    def encode_image(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """As that of `StableDiffusionPipeline`."""
        from diffusers import StableDiffusionPipeline  # imported where needed: it takes long

        return StableDiffusionPipeline.encode_image(self, *args, **kwargs)

    def prepare_ip_adapter_image_embeds(self, *args: Any, **kwargs: Any) -> list[Tensor]:
        """As that of `StableDiffusionPipeline`."""
        from diffusers import StableDiffusionPipeline

        return StableDiffusionPipeline.prepare_ip_adapter_image_embeds(self, *args, **kwargs)

    def _control(
        self, images: GuidingImages, runs: bool, count: int, copies: int, scale: float
    ) -> tuple[Control, list[list[str]]]:
        """The images that guide the content frames of a call, and notes on how each control image was changed.

        Args:
            images: The user's arguments.
            runs: Whether the content model runs.
            count: Number of videos.
            copies: Number of videos for each prompt.
            scale: Guidance scale of the content model.
        """
        loaded = getattr(getattr(self.unet, "encoder_hid_proj", None), "image_projection_layers", None)
        if images.given is None:
            if runs and loaded is not None:
                raise InputError("`ip_adapter_image`: an IP-Adapter is loaded; give an image, or `unload_ip_adapter()`")
            return Control(), []
        if not runs:
            raise InputError(f"`{images.given}`: the content frame is given, not generated; leave one of the two out")
        stable_unet(self.unet, images.given)
        notes: list[list[str]] = []
        control = Control()
        if images.control_image is not None:
            conditions, notes = self._control_images(images.control_image, count, copies)
            scales, starts, ends = weights_of(images, len(conditions))
            control = Control(conditions, scales, starts, ends)
        if images.ip_adapter_image is not None or images.ip_adapter_image_embeds is not None:
            embeds = self._image_embeds(images, len(loaded or ()), count, scale > 1)
            control = replace(control, embeds=embeds)
        return control, notes

    def _control_images(self, given: Any, count: int, copies: int) -> tuple[list[Tensor], list[list[str]]]:
        """For each ControlNet its images, `(count, 3, H, W)` in [0, 1], and notes on how each was changed."""
        several = isinstance(self.controlnet, MultiControlNetModel)
        nets = list(self.controlnet.nets) if several else [self.controlnet]
        for net in nets:
            self._check_controlnet(net)
        if several and not (isinstance(given, list | tuple) and len(given) == len(nets)):
            raise InputError(f"`control_image`: there are {len(nets)} ControlNets; give a list with images for each")
        found: list[Tensor] = []
        notes: list[list[str]] = [[] for _ in range(count)]
        for own in given if several else [given]:
            images, done = fit_images(own, self.size, "control_image")
            if len(images) not in (1, count // copies):
                raise InputError(
                    f"`control_image`: {len(images)} given for {count // copies} prompts; give one, or one each"
                )
            repeats = count if len(images) == 1 else copies
            found.append(images.repeat_interleave(repeats, dim=0))
            for i, texts in enumerate(notes):
                texts += [f"control {text}" for text in done[i // repeats]]
        return found, notes

    def _check_controlnet(self, net: Any) -> None:
        """Raises an `InputError` for a ControlNet that was not made for the content model."""
        if not isinstance(net, ControlNetModel):
            what = "it is missing" if net is None else f"it is a {type(net).__name__}"
            raise InputError(f"`controlnet`: {what}; set `pipeline.controlnet` to a ControlNetModel of diffusers")
        own, theirs = ({name: plain(part.config[name]) for name in SHARED} for part in (self.unet, net))
        if other := [name for name in SHARED if own[name] != theirs[name]]:
            raise InputError(
                f"`controlnet`: its {other[0]} is {theirs[other[0]]}, that of the content model {own[other[0]]}; give "
                "a ControlNet that was made for this model"
            )
        channels, halvings = (
            net.config["conditioning_channels"],
            len(net.config["conditioning_embedding_out_channels"]) - 1,
        )
        frame, made = self.latent_spec.content[1:], tuple(side // 2**halvings for side in self.size)
        if channels != 3 or frame != made:
            raise InputError(
                f"`controlnet`: it takes images of {channels} channels, {2**halvings} times the size of the content "
                f"frame; this model needs 3 channels and {self.size[0] // frame[0]} times the size"
            )

    def _image_embeds(self, images: GuidingImages, adapters: int, count: int, guided: bool) -> list[Tensor]:
        """For each IP-Adapter its embeddings for `count` videos; with guidance, then those of the null condition."""
        given, embeds = images.ip_adapter_image, images.ip_adapter_image_embeds
        option = "ip_adapter_image" if embeds is None else "ip_adapter_image_embeds"
        each: Sequence[Any] = embeds or ()
        if not adapters:
            raise InputError(f"`{option}`: no IP-Adapter is loaded; call `load_ip_adapter` first")
        if given is not None and embeds is not None:
            raise InputError("`ip_adapter_image` and `ip_adapter_image_embeds`: give one of the two")
        if embeds is None:
            if self.image_encoder is None:
                raise InputError("`ip_adapter_image`: no image encoder is loaded; give `ip_adapter_image_embeds`")
            each = [pillow_images(own) for own in (given if isinstance(given, list | tuple) else [given])]
        if len(each) != adapters:
            raise InputError(f"`{option}`: {len(each)} given for {adapters} IP-Adapters; give a list of one for each")
        device = compat.execution_device(self.image_encoder if embeds is None else self.unet)
        shown, embeds = (each, None) if embeds is None else (None, each)
        try:
            found = self.prepare_ip_adapter_image_embeds(shown, embeds, device, count, guided)
            self.unet.encoder_hid_proj([own.to(compat.execution_device(self.unet), self.unet.dtype) for own in found])
        except Exception as error:  # of shapes, of many kinds
            raise InputError(f"`{option}`: they do not fit the IP-Adapter ({reason(error)}); give others") from error
        # diffusers puts those of the null condition first.
        return [torch.cat(own.chunk(2)[::-1]) if guided else own for own in found]

    def _content_denoiser(self, request: Request) -> Denoiser:
        """The content model, guided by the images of a request."""
        control = request.control
        attention: dict[str, Any] = {"cross_attention_kwargs": dict(request.attention_kwargs) or None}
        if not (control.embeds or any(control.scales)):
            return functools.partial(predict_content, self.unet, **attention)
        several: Any = self.controlnet
        if several is not None and not isinstance(several, MultiControlNetModel):
            several = MultiControlNetModel([several])
        pipeline: Any = self
        steps = itertools.count()

        def predict(noisy: Tensor, timestep: Tensor, condition: Condition | None) -> Tensor:
            options = dict(attention)
            step, number, copies = next(steps), pipeline.num_timesteps, len(noisy) // len(request.seeds)
            if control.embeds:
                options["added_cond_kwargs"] = {"image_embeds": [own[: len(noisy)].to(noisy) for own in control.embeds]}
            scales = [
                scale if start <= step / number and (step + 1) / number <= end else 0.0
                for scale, start, end in zip(control.scales, control.starts, control.ends, strict=True)
            ]
            if any(scales):
                tokens = stock_tokens(self.unet, noisy, condition)
                images = [image.repeat(copies, 1, 1, 1).to(noisy) for image in control.images]
                down, middle = several(noisy, timestep, tokens, images, scales, return_dict=False)
                options |= {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}
            return predict_content(self.unet, noisy, timestep, condition, **options)

        return predict


def stable_unet(unet: Any, option: str) -> UNet2DConditionModel:
    """The content model; an `InputError` about the argument `option` if it is not a Stable Diffusion U-Net."""
    if not isinstance(unet, UNet2DConditionModel):
        kind = "it is missing" if unet is None else f"it is a {type(unet).__name__}"
        raise InputError(
            f"`{option}`: the content model must be a UNet2DConditionModel of diffusers, but {kind}; use another model"
        )
    return unet


def weights_of(images: GuidingImages, nets: int) -> list[list[float]]:
    """The scale, start and end of each ControlNet, from one number for all or one for each."""
    found = []
    for option in ("controlnet_conditioning_scale", "control_guidance_start", "control_guidance_end"):
        value = getattr(images, option)
        found.append([float(own) for own in value] if isinstance(value, Sequence) else [float(value)] * nets)
        if len(found[-1]) != nets:
            raise InputError(f"`{option}`: {len(value)} given for {nets} ControlNets; give one number, or one for each")
    for start, end in zip(*found[1:], strict=True):
        if not 0 <= start < end <= 1:
            raise InputError(
                f"`control_guidance_start` {start}, `control_guidance_end` {end}: give shares of the steps, from 0 to "
                "1, the first less than the second"
            )
    return found


def pillow_images(given: Image | Sequence[Image]) -> list[Any]:
    """Images in any format as PIL images, in their original size."""
    from PIL import Image as pillow

    tensors = tensors_of(given, "ip_adapter_image")
    fitted = [fit_image(image, tuple(image.shape[1:]), "ip_adapter_image")[0] for image in tensors]  # type: ignore[arg-type]  # two sides
    return [pillow.fromarray((255 * image).round().byte().permute(1, 2, 0).numpy()) for image in fitted]
