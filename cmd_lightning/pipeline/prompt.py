"""The conditions of both stages of `CMDPipeline`, from prompts, encoded prompts or negative prompts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from diffusers.utils import USE_PEFT_BACKEND, scale_lora_layers, unscale_lora_layers
from torch import Tensor, nn

from cmd_lightning import compat
from cmd_lightning.conditioning import ConditionEncoder, encode_condition, remarks
from cmd_lightning.errors import InputError
from cmd_lightning.networks import Condition
from cmd_lightning.pipeline.request import NETWORKS, Request, StageName
from cmd_lightning.pretrained_text import StableDiffusionText

Embeds = Tensor | Condition | Mapping[str, Tensor | Condition] | None
"""Encoded prompts: a `Condition`, or tokens `(B, L, K)` or pooled vectors `(B, K)`; by stage if they differ."""


class Prompting:
    """The part of `CMDPipeline` that encodes prompts."""

    text_encoder: Any
    motion_text_encoder: Any
    tokenizer: Any

    @property
    def encoders(self) -> dict[StageName, ConditionEncoder | None]:
        """The condition encoder of each stage."""
        content = self.text_encoder
        if content is not None and not isinstance(content, ConditionEncoder):
            content = StableDiffusionText.of(content, self.tokenizer)
        return {"content": content, "motion": self.motion_text_encoder}

    def encode_prompt(
        self,
        prompt: str | Sequence[str],
        negative_prompt: str | Sequence[str] | None = None,
        do_classifier_free_guidance: bool = True,
        num_videos_per_prompt: int = 1,
    ) -> tuple[dict[str, Condition], dict[str, Condition]]:
        """Encodes prompts for both stages, for use as `prompt_embeds` and `negative_prompt_embeds`.

        Args:
            prompt: One caption or several.
            negative_prompt: Negative prompt: one for all captions, or one for each; by default the empty caption.
            do_classifier_free_guidance: Whether to encode the negative prompts too.
            num_videos_per_prompt: How often to repeat each.

        Returns:
            The conditions of the prompts and of the negative prompts, by stage.
        """
        values = [prompt] if isinstance(prompt, str) else list(prompt)
        negative = repeated(negative_prompt, len(values), 1)
        found: tuple[dict[str, Condition], dict[str, Condition]] = {}, {}
        for stage, encoder in self.encoders.items():
            both = encode_condition(encoder, values, 2.0 if do_classifier_free_guidance else 1.0, stage, negative)
            for by_stage, condition in zip(found, both, strict=True):
                if condition is not None:
                    by_stage[stage] = condition.repeat(num_videos_per_prompt)
        return found

    def _conditions(
        self, stage: StageName, scale: float, request: Request
    ) -> tuple[Condition | None, Condition | None]:
        """The condition of a stage and, if guidance is enabled, the null or negative one; on its network's device."""
        own, null = request.embeds.get(stage), request.negative_embeds.get(stage)
        encoder, network = self.encoders[stage], getattr(self, NETWORKS[stage])
        with scaled_lora(self.text_encoder if stage == "content" else None, request.attention_kwargs.get("scale")):
            if own is None:
                guidance = scale if null is None else 1.0  # so that no other is encoded
                own, empty = encode_condition(encoder, request.values, guidance, stage, request.negative)
                null = empty if null is None else null
            elif null is None and scale > 1:
                null = null_of(encoder, len(own), stage, request.negative)
        check_channels(own, network, stage)
        device = compat.execution_device(network)
        pair = (own, null if scale > 1 else None)
        own, null = (None if given is None else given.map(lambda x: x.to(device)) for given in pair)
        return own, null

    def remarks(self, value: str | int, stages: Sequence[StageName] = ("content", "motion")) -> list[str]:
        """The parts of a prompt that the stages do not use, one sentence each: truncated text and unknown words."""
        encoders = self.encoders
        return remarks((encoders[stage] for stage in stages), value) if isinstance(value, str) else []


def null_of(
    encoder: ConditionEncoder | None, count: int, stage: str, negative: Sequence[str] | None = None
) -> Condition:
    """The null or negative condition, if prompts were given encoded."""
    if encoder is None:
        raise InputError(
            f"`negative_prompt_embeds`: guidance of the {stage} model needs them, as it has no text encoder; give "
            "them, or guidance_scale 1"
        )
    return encoder.null(count) if negative is None else encoder(negative)


def check_channels(condition: Condition | None, network: nn.Module, stage: str) -> None:
    """Raises an `InputError` for a condition with other channels than the network's."""
    config: Any = getattr(network, "config", {})
    wanted = config.get("condition_dim") or config.get("cross_attention_dim")
    if condition is not None and isinstance(wanted, int) and condition.sequence().shape[2] != wanted:
        raise InputError(
            f"`prompt_embeds`: {condition.sequence().shape[2]} channels, the {stage} model takes {wanted}; give each "
            "stage its own, as {'content': ..., 'motion': ...}"
        )


def embeds_by_stage(given: Embeds, option: str, copies: int) -> dict[str, Condition]:
    """Encoded prompts by stage, each `copies` times in a row; those for all stages are given to each.

    Raises:
        InputError: There is no such stage, or a tensor has another number of dimensions; `option` is its name.
    """
    if given is None:
        return {}
    by_stage = given if isinstance(given, Mapping) else dict.fromkeys(NETWORKS, given)
    found = {}
    for stage, embeds in by_stage.items():
        if stage not in NETWORKS:
            raise InputError(f"`{option}`: no stage {stage!r}; the stages are {', '.join(NETWORKS)}")
        if isinstance(embeds, Tensor):
            if embeds.ndim not in (2, 3):
                raise InputError(f"`{option}`: shape {tuple(embeds.shape)}; give tokens (B, L, K) or vectors (B, K)")
            embeds = Condition(embeds) if embeds.ndim == 2 else Condition(embeds.mean(1), embeds)
        found[stage] = embeds.repeat(copies)
    if len({len(embeds) for embeds in found.values()}) > 1:
        raise InputError(f"`{option}`: other numbers of prompts by stage; give as many for each")
    return found


def repeated(negative: str | Sequence[str] | None, prompts: int, copies: int) -> list[str] | None:
    """A negative prompt for each video: one for all prompts, or one each, each `copies` times in a row.

    Raises:
        InputError: Their number is neither one nor that of the prompts.
    """
    if negative is None:
        return None
    each = [negative] * prompts if isinstance(negative, str) else list(negative)
    if len(each) != prompts:
        raise InputError(f"`negative_prompt`: {len(each)} given for {prompts} prompts; give one, or one each")
    return [text for text in each for _ in range(copies)]


@contextmanager
def scaled_lora(text_encoder: nn.Module | None, scale: float | None) -> Iterator[None]:
    """Within the context, the LoRA layers of a text encoder are scaled."""
    if text_encoder is None or scale is None or not USE_PEFT_BACKEND:
        yield
        return
    scale_lora_layers(text_encoder, scale)
    try:
        yield
    finally:
        unscale_lora_layers(text_encoder, scale)
