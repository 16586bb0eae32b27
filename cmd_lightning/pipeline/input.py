"""The arguments of a call of `CMDPipeline`, checked and combined into a `Request`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor

from cmd_lightning.conditioning import Values, count_videos
from cmd_lightning.diffusion.sampling import Known, PerStage, per_stage
from cmd_lightning.errors import InputError
from cmd_lightning.networks import Condition
from cmd_lightning.pipeline.clips import Clip, Clips
from cmd_lightning.pipeline.control import Controlled, GuidingImages
from cmd_lightning.pipeline.images import Image, fit_images
from cmd_lightning.pipeline.prompt import Embeds, Prompting, embeds_by_stage, repeated
from cmd_lightning.pipeline.request import NETWORKS, Request, StageName


class Inputs(Clips, Prompting, Controlled):
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
        video: Clip | Sequence[Clip] | None,
        content: Tensor | None,
        motion: Tensor | None,
        strength: PerStage,
        keep: Mapping[str, Tensor] | None,
        prompt_embeds: Embeds,
        negative_prompt_embeds: Embeds,
        attention_kwargs: Mapping[str, Any] | None,
        guiding: GuidingImages,
    ) -> Request:
        """The arguments of `CMDPipeline.__call__`, which documents them, checked and combined."""
        one_of(prompt=prompt, class_labels=class_labels)
        one_of(image=image, content=content, video=video)
        one_of(motion=motion, video=video)
        one_of(seeds=seeds, generator=generator)
        one_of(negative_prompt=negative_prompt, negative_prompt_embeds=negative_prompt_embeds)
        if not isinstance(prompt_embeds, Mapping):  # by stage, they may be for one stage, and the prompt for the other
            one_of(prompt=prompt, prompt_embeds=prompt_embeds)
        copies = num_videos_per_prompt
        given, changed = self._given(image, video, content, motion)
        known = known_of(given, strength, keep or {}, 0.75 if video is not None else 0.0)
        stages: list[StageName] = [stage for stage in NETWORKS if stage not in known or known[stage].strength]
        if "content" in stages and self.unet is None:
            raise InputError("`image`: this model has no content model; give an image, or `content`")
        if attention_kwargs and not ("content" in stages and isinstance(self.unet, UNet2DConditionModel)):
            raise InputError("`attention_kwargs`: no Stable Diffusion U-Net runs here; leave it out")

        embeds = embeds_by_stage(prompt_embeds, "prompt_embeds", copies)
        alone = len(next(iter(given.values()))) if given else 1
        values = asked(prompt if prompt is not None else class_labels, embeds, alone, copies)
        count = count_videos(values, [*self.encoders.values(), *embeds.values()], seeds)
        for stage, clean in given.items():
            if count != len(clean) * copies:
                name = "video" if video is not None else "image" if stage == "content" and image is not None else stage
                raise InputError(f"`{name}`: {len(clean)} given for {count // copies} prompts; give as many")
        negative = repeated(negative_prompt, count // copies, copies)

        notes = [self.remarks(value, stages) for value in values] if isinstance(values, list) else [[]] * count
        if changed:
            notes = [[*own, *changed[i // copies]] for i, own in enumerate(notes)]
        scales = {stage: self.sampling(stage, num_inference_steps, guidance_scale)[1] for stage in stages}
        if negative is not None and max(scales.values(), default=0) <= 1:
            notes = [[*own, "negative prompt: guidance is disabled, so it has no effect"] for own in notes]
        control, resized = self._control(guiding, "content" in stages, count, copies, scales.get("content", 1.0))
        notes = [[*own, *more] for own, more in zip(notes, resized or [[]] * count, strict=True)]
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
            control,
            {stage: own.repeat(copies) for stage, own in known.items()},
            notes,
        )

    def _given(
        self,
        image: Image | Sequence[Image] | None,
        video: Clip | Sequence[Clip] | None,
        content: Tensor | None,
        motion: Tensor | None,
    ) -> tuple[dict[StageName, Tensor], list[list[str]]]:
        """The given latents by stage, and notes on how each image or clip was changed."""
        notes: list[list[str]] = []
        if image is not None:
            images, notes = fit_images(image, self.size)
            content = self.content_of(images * 2 - 1)
        elif video is not None:
            clips, notes = self._whole(video, "video")
            content, motion = self.encode(clips * 2 - 1)
        given: dict[StageName, Tensor | None] = {"content": content, "motion": motion}
        for stage, clean in given.items():
            shape = getattr(self.latent_spec, stage)
            if clean is not None and tuple(clean.shape[1:]) != shape:
                name = {"content": "content frames", "motion": "motion latents"}[stage]
                wanted = ", ".join(map(str, shape))
                raise InputError(f"`{stage}`: {tuple(clean.shape)}; give {name} of shape (count, {wanted})")
        return {stage: clean for stage, clean in given.items() if clean is not None}, notes


def known_of(
    given: Mapping[StageName, Tensor], strength: PerStage, keep: Mapping[str, Tensor], usual: float
) -> dict[StageName, Known]:
    """The known latents of each stage.

    Args:
        given: Latents by stage.
        strength: How much to change them.
        keep: Where to keep them.
        usual: The strength if none is given and nothing is kept.

    Raises:
        InputError: A setting is for a stage without given latents, or is out of range.
    """
    named = {"strength": strength if isinstance(strength, Mapping) else {}, "keep": keep}
    for option, stage in ((option, stage) for option, by_stage in named.items() for stage in by_stage):
        if stage not in given:
            raise InputError(f"`{option}`: no {stage} is given to change; give `video`, `content` or `motion`")
    if strength is not None and not given:
        raise InputError(f"`strength` {strength}: nothing is given to change; give `video`, `content` or `motion`")
    strengths = per_stage(strength, {stage: 1.0 if stage in keep else usual for stage in given}, "strength")
    known: dict[StageName, Known] = {}
    for stage, clean in given.items():
        own, kept = strengths[stage], keep.get(stage)
        if not 0 <= own <= 1:
            raise InputError(f"`strength` {own}: give a number from 0, nothing changes, to 1")
        try:
            known[stage] = Known(clean, own, None if kept is None else kept.bool().expand_as(clean))
        except RuntimeError:
            raise InputError(
                f"`keep`: {tuple(keep[stage].shape)} for {stage} of shape {tuple(clean.shape)}; give a mask that "
                "broadcasts to it"
            ) from None
    return known


def asked(
    given: str | int | Sequence[str] | Sequence[int] | None, embeds: Mapping[str, Condition], alone: int, copies: int
) -> Values:
    """The captions or classes of the videos, each `copies` times in a row; or the number of videos.

    Args:
        given: Captions or classes, if any.
        embeds: Encoded prompts, one for each video.
        alone: The number of videos without copies, if neither is given.
        copies: Videos for each.
    """
    if given is None:
        return len(next(iter(embeds.values()))) if embeds else alone * copies
    each: Any = [given] if isinstance(given, str | int) else list(given)
    return [value for value in each for _ in range(copies)]


def one_of(**given: Any) -> None:
    """Raises an `InputError` if more than one of these arguments is given."""
    if len(named := [name for name, value in given.items() if value is not None]) > 1:
        raise InputError(f"`{named[0]}` and `{named[1]}`: give one of the two")


def check_size(own: tuple[int, int, int], num_frames: int | None, height: int | None, width: int | None) -> None:
    """Raises an `InputError` if a requested size is not the model's `own`: frames, height and width."""
    asked = {"num_frames": num_frames, "height": height, "width": width}
    for (name, value), number in zip(asked.items(), own, strict=True):
        if value is not None and value != number:
            raise InputError(f"`{name}` {value}: this model generates {number}; leave it out, or train another model")


def draw_seeds(
    seeds: Sequence[int] | None, generator: torch.Generator | Sequence[torch.Generator] | None, count: int
) -> list[int]:
    """A seed for each of `count` videos: the given ones, or random ones from one generator or one for each video.

    Raises:
        InputError: The number of generators is wrong.
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
    """The given initial noise by stage; a single tensor is for the first stage.

    Args:
        latents: The user's argument.
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
