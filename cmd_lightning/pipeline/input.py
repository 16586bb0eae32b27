"""What `CMDPipeline` is given, checked and brought into its forms: images, sizes, seeds, latents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor

from cmd_lightning.conditioning import Values, count_videos
from cmd_lightning.diffusion.sampling import PerStage
from cmd_lightning.errors import InputError
from cmd_lightning.image_io import covering, read_image, shown
from cmd_lightning.networks import Condition
from cmd_lightning.pipeline.latents import Latents
from cmd_lightning.pipeline.prompt import Embeds, Prompting, embeds_by_stage, repeated
from cmd_lightning.pipeline.request import Request, StageName

Image = Any
"""One image: a PIL image, the path or URL of a file, an array `(H, W, 3)` or a tensor `(3, H, W)`; arrays and tensors
hold floats in [0, 1] or uint8."""


class Inputs(Latents, Prompting):
    """The part of `CMDPipeline` that reads the arguments of a call."""

    unet: Any
    sampling: Any

    def _request(
        self,
        *,
        prompt: str | Sequence[str] | None,
        class_labels: int | Sequence[int] | None,
        image: Image | Sequence[Image] | None,
        negative_prompt: str | Sequence[str] | None,
        num_inference_steps: int | Mapping[str, int] | None,
        guidance_scale: PerStage,
        guidance_rescale: float,
        num_videos_per_prompt: int,
        seeds: Sequence[int] | None,
        generator: torch.Generator | Sequence[torch.Generator] | None,
        latents: Tensor | Mapping[str, Tensor] | None,
        content: Tensor | None,
        prompt_embeds: Embeds,
        negative_prompt_embeds: Embeds,
        attention_kwargs: Mapping[str, Any] | None,
    ) -> Request:
        """The arguments of `CMDPipeline.__call__`, which describes them, checked and brought together."""
        one_of(prompt=prompt, class_labels=class_labels)
        one_of(image=image, content=content)
        one_of(seeds=seeds, generator=generator)
        one_of(negative_prompt=negative_prompt, negative_prompt_embeds=negative_prompt_embeds)
        if not isinstance(prompt_embeds, Mapping):  # by stage, they may be for one stage, and the prompt for the other
            one_of(prompt=prompt, prompt_embeds=prompt_embeds)
        copies = num_videos_per_prompt
        images, resized = (None, []) if image is None else fit_images(image, self.size)
        if content is not None and tuple(content.shape[1:]) != self.latent_spec.content:
            wanted = ", ".join(map(str, self.latent_spec.content))
            raise InputError(f"`content`: {tuple(content.shape)}; give content frames of shape (count, {wanted})")
        frames = content if images is None else images
        stages: tuple[StageName, ...] = ("content", "motion") if frames is None else ("motion",)
        if frames is None and self.unet is None:
            raise InputError("`image`: this model has no content model; give an image, or `content`")
        if attention_kwargs and not (frames is None and isinstance(self.unet, UNet2DConditionModel)):
            raise InputError("`attention_kwargs`: no Stable Diffusion U-Net runs here; leave it out")

        embeds = embeds_by_stage(prompt_embeds, "prompt_embeds", copies)
        values = asked(
            prompt if prompt is not None else class_labels, embeds, 1 if frames is None else len(frames), copies
        )
        count = count_videos(values, [*self.encoders.values(), *embeds.values()], seeds)
        if frames is not None and count != len(frames) * copies:
            name = "content" if images is None else "image"
            raise InputError(f"{name}: {len(frames)} given for {count // copies} prompts; give as many")
        negative = repeated(negative_prompt, count // copies, copies)

        notes = [self.remarks(value, stages) for value in values] if isinstance(values, list) else [[]] * count
        if resized:
            notes = [[*own, *resized[i // copies]] for i, own in enumerate(notes)]
        scales = [self.sampling(stage, num_inference_steps, guidance_scale)[1] for stage in stages]
        if negative is not None and max(scales) <= 1:
            notes = [[*own, "negative prompt: guidance is disabled, so it has no effect"] for own in notes]
        if images is not None:
            frames = self.content_of(images * 2 - 1)
        return Request(
            values,
            draw_seeds(seeds, generator, count),
            num_inference_steps,
            guidance_scale,
            negative,
            embeds,
            embeds_by_stage(negative_prompt_embeds, "negative_prompt_embeds", copies),
            latents_by_stage(latents, {stage: getattr(self.latent_spec, stage) for stage in stages}, count),
            guidance_rescale,
            attention_kwargs or {},
            None if frames is None else frames.repeat_interleave(copies, dim=0),
            notes,
        )


def asked(
    given: str | int | Sequence[str] | Sequence[int] | None, embeds: Mapping[str, Condition], alone: int, copies: int
) -> Values:
    """What the videos are generated from, each `copies` times in a row: captions, classes, or how many there are.

    Args:
        given: Captions or classes, if any.
        embeds: Encoded prompts, as many times as there are videos.
        alone: How many there are where neither is given.
        copies: Videos for each.
    """
    if given is None:
        return len(next(iter(embeds.values()))) if embeds else alone * copies
    each: Any = [given] if isinstance(given, str | int) else list(given)
    return [value for value in each for _ in range(copies)]


def fit_image(image: Tensor, size: tuple[int, int]) -> tuple[Tensor, list[str]]:
    """An image in a model's size: resized, with antialiasing, until it just covers it; the middle is kept.

    Args:
        image: `(3, H, W)`, uint8 or floats in [0, 1], of any size.
        size: Height and width of the model in pixels.

    Returns:
        The image `(3, height, width)` in [0, 1], and what was done to it in words; nothing if it has the model's size.

    Raises:
        InputError: It has another shape, or other values.
    """
    if image.ndim != 3 or len(image) != 3 or not image.numel():
        raise InputError(f"`image`: shape {tuple(image.shape)}; give RGB as a tensor (3, H, W) or an array (H, W, 3)")
    if image.dtype == torch.uint8:
        image = image.float() / 255
    elif not image.is_floating_point() or not (image.min() >= 0 and image.max() <= 1):
        raise InputError(
            f"`image`: {str(image.dtype).removeprefix('torch.')} from {image.min():g} to {image.max():g}; give floats "
            "in [0, 1], or uint8"
        )
    if tuple(image.shape[1:]) == tuple(size):
        return image.float(), []
    fitted = covering(image[None].float(), size, "bilinear")[0]
    before, after = (f"{width}x{height}" for height, width in (image.shape[1:], size))
    return fitted, [f"image of {before} pixels: resized and cropped to the model's {after}"]


def fit_images(images: Image | Sequence[Image], size: tuple[int, int]) -> tuple[Tensor, list[list[str]]]:
    """An image or several, `(B, 3, height, width)` in [0, 1]; several may be a list, an array or a tensor.

    See `fit_image`, which says what was done to each.
    """
    tensors = tensors_of(images)
    if not tensors:
        raise InputError("`image`: an empty list; give at least one image")
    fitted, resized = zip(*(fit_image(image, size) for image in tensors), strict=True)
    return torch.stack(fitted), list(resized)


def tensors_of(images: Image | Sequence[Image]) -> list[Tensor]:
    """Images as tensors `(3, H, W)`, with their own sizes and values."""
    from PIL import Image as pillow
    from PIL import ImageOps

    if isinstance(images, str) and images.startswith(("http://", "https://")):
        from diffusers.utils import load_image

        images = load_image(images)
    if isinstance(images, pillow.Image):
        return [shown(ImageOps.exif_transpose(images), "`image`", "white")[0]]
    if isinstance(images, str | Path):
        return [read_image(images)]
    if isinstance(images, np.ndarray):
        if images.ndim not in (3, 4):
            raise InputError(f"`image`: an array of shape {images.shape}; give (H, W, 3), or (B, H, W, 3)")
        return list(torch.from_numpy(images.reshape(-1, *images.shape[-3:])).permute(0, 3, 1, 2))
    if isinstance(images, Tensor):
        return list(images) if images.ndim == 4 else [images]
    if isinstance(images, Sequence):
        return [image for given in images for image in tensors_of(given)]
    raise InputError(
        f"`image`: a {type(images).__name__}; give PIL images, paths, URLs, arrays (H, W, 3) or tensors (3, H, W)"
    )


def one_of(**given: Any) -> None:
    """Raises an `InputError` if more than one of these arguments is given."""
    if len(named := [name for name, value in given.items() if value is not None]) > 1:
        raise InputError(f"`{named[0]}` and `{named[1]}`: give one of the two")


def check_size(own: tuple[int, int, int], num_frames: int | None, height: int | None, width: int | None) -> None:
    """Raises an `InputError` if a size is asked for that is not the model's `own`: frames, height and width."""
    asked = {"num_frames": num_frames, "height": height, "width": width}
    for (name, value), number in zip(asked.items(), own, strict=True):
        if value is not None and value != number:
            raise InputError(f"`{name}` {value}: this model makes {number}; leave it out, or train another model")


def draw_seeds(
    seeds: Sequence[int] | None, generator: torch.Generator | Sequence[torch.Generator] | None, count: int
) -> list[int]:
    """A seed for each of `count` videos: the given ones, or drawn from the generator or one generator for each video.

    Raises:
        InputError: There is another number of generators.
    """
    if seeds is not None:
        return list(seeds)
    if isinstance(generator, Sequence):
        if len(generator) != count:
            raise InputError(f"`generator`: {len(generator)} given for {count} videos; give one, or one for each")
        return [draw_seeds(None, own, 1)[0] for own in generator]
    device = torch.device("cpu") if generator is None else generator.device
    return torch.randint(2**31, (count,), generator=generator, device=device).tolist()


def latents_by_stage(
    latents: Tensor | Mapping[str, Tensor] | None, shapes: Mapping[str, tuple[int, ...]], count: int
) -> dict[str, Tensor]:
    """The given initial noise by stage; a tensor alone is that of the first stage.

    Args:
        latents: What the user gave.
        shapes: The shapes of one sample's latents, by the stages that run, in their order.
        count: Number of videos.

    Raises:
        InputError: A stage does not run, or a shape is wrong.
    """
    if latents is None:
        return {}
    given = {next(iter(shapes)): latents} if isinstance(latents, Tensor) else dict(latents)
    for stage, noise in given.items():
        if stage not in shapes:
            raise InputError(f"`latents`: no stage {stage!r} runs; those that do are {', '.join(shapes)}")
        if tuple(noise.shape) != (expected := (count, *shapes[stage])):
            raise InputError(f"`latents`: {tuple(noise.shape)} for {stage}; give normal noise of shape {expected}")
    return given
