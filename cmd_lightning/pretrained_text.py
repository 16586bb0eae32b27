"""Frozen text encoders with public weights: Stable Diffusion's own, and those of open_clip."""

from __future__ import annotations

import inspect
from abc import abstractmethod
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import torch
from torch import nn

from cmd_lightning.conditioning import ConditionEncoder, OpenCLIPTextEncoder
from cmd_lightning.errors import InputError
from cmd_lightning.networks import Condition
from cmd_lightning.provenance import fingerprint
from cmd_lightning.stable_diffusion import StableDiffusion


class PretrainedText(ConditionEncoder):
    """A frozen encoder of captions."""

    field = "caption"
    frozen = True
    activation: str  # its name, which is not in the weights

    @abstractmethod
    def open(self) -> None:
        """Reads the weights, if they have not been read yet."""

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the weights and the activation, which differs between encoders."""
        self.open()
        return fingerprint(self.state_dict(), self.activation)


class StableDiffusionText(PretrainedText):
    """The tokenizer and text encoder of a Stable Diffusion model: all its hidden states, padding included.

    Args:
        base: Stable Diffusion folder or hub id.
        width: Channels of the hidden states: 768 for 1.5, 1024 for 2.1. None: reads the weights at once to see.
        variant: Variant of the weights, such as "fp16".
        revision: Branch, tag or commit of a hub id.
    """

    text_model: Any
    tokenizer: Any

    def __init__(
        self, base: str, width: int | None = None, variant: str | None = None, revision: str | None = None
    ) -> None:
        super().__init__()
        self._source = StableDiffusion(base, variant, revision)
        self._width = width
        self.text_model = self.tokenizer = None

    @classmethod
    def of(cls, text_model: nn.Module, tokenizer: Any, base: str = "") -> Self:
        """An encoder of loaded parts, which are left unchanged; `base` is the folder or hub id that they come from."""
        encoder = cls(base)
        encoder.text_model, encoder.tokenizer = text_model, tokenizer
        return encoder

    @property
    def activation(self) -> str:  # type: ignore[override]  # known once the weights are open
        return self.text_model.config.hidden_act

    @property
    def dim(self) -> int:  # type: ignore[override]  # known once the weights are open
        if self._width is None:
            self.open()
        return self._width or self.text_model.config.hidden_size

    @property
    def context_length(self) -> int:  # type: ignore[override]  # known once the tokenizer is open
        self.open()
        return self.tokenizer.model_max_length

    def open(self) -> None:
        if self.text_model is not None:
            return
        model, tokenizer = self._source.text()
        if self._width not in (None, width := model.config.hidden_size):
            raise InputError(
                f"{self._source.option} {self._source.name}: its text encoder has {width} channels, where the U-Net "
                f"and model.text_width ask for {self._width}; Stable Diffusion 1.5 has 768, 2.1 has 1024: give the "
                "model whose config this is"
            )
        self.text_model, self.tokenizer = model.requires_grad_(False).eval(), tokenizer

    def save_pretrained(self, folder: str | Path, **kwargs: Any) -> None:  # type: ignore[override]  # fewer options
        """Writes the text encoder and its tokenizer into a folder each."""
        self.open()
        self.save_config(folder)
        for name in ("text_model", "tokenizer"):
            getattr(self, name).save_pretrained(Path(folder, name))

    @classmethod
    def from_pretrained(  # type: ignore[override]  # as a pipeline calls it
        cls, folder: str | Path, subfolder: str = "", **kwargs: Any
    ) -> Self:
        """Opens what `save_pretrained` wrote, as a part of a pipeline."""
        from transformers import CLIPTextModel, CLIPTokenizer

        text_model = CLIPTextModel.from_pretrained(Path(folder, subfolder, "text_model"))
        tokenizer = CLIPTokenizer.from_pretrained(Path(folder, subfolder, "tokenizer"))
        return cls.of(text_model.float(), tokenizer).requires_grad_(False)

    def cut(self, caption: str) -> str:
        length = self.context_length
        tokens = self.tokenizer(caption, add_special_tokens=False, verbose=False).input_ids
        return self.tokenizer.decode(tokens[length - 2 :]).strip()  # besides start and end

    @torch.no_grad()
    def forward(self, values: Sequence[str]) -> Condition:
        length = self.context_length
        tokens = self.tokenizer(
            list(values), padding="max_length", max_length=length, truncation=True, return_tensors="pt"
        ).input_ids.to(self.execution_device)
        out = self.text_model(tokens)
        return Condition(out.pooler_output, out.last_hidden_state, torch.ones_like(tokens, dtype=torch.bool))


class FrozenOpenCLIP(PretrainedText, OpenCLIPTextEncoder):
    """The text tower of a public open_clip model: the hidden states of the caption's tokens, and their mean.

    The paper's motion model reads ViT-H (table 6), through a separate projection.

    Args:
        model: A name out of `open_clip.list_models()`; OpenAI's weights need one that ends in -quickgelu.
        weights: A tag of published weights, from the local cache or downloaded; or a file.
    """

    def __init__(self, model: str = "ViT-H-14", weights: str = "laion2b_s32b_b79k") -> None:
        settings = _text_settings(model)
        OpenCLIPTextEncoder.__init__(self, settings, trainable=False)
        self.activation = "quick_gelu" if "act_layer" in settings else "gelu"
        self._model, self._weights, self._opened = model, weights, False

    def open(self) -> None:
        if self._opened:
            return
        from cmd_lightning.metrics.clip_similarity import open_clip_model

        try:
            whole, _, _ = open_clip_model(self._model, self._weights)
        except InputError as error:
            raise InputError(f"condition {self._model}: {error}") from error
        names = self.tower.state_dict()
        weights = getattr(whole, "text", whole).state_dict()
        self.tower.load_state_dict({name: weights[name] for name in names})
        self._opened = True

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Self:
        """Opens a folder of a pipeline, which holds the weights."""
        encoder = super().from_pretrained(*args, **kwargs)
        encoder._opened = True
        return encoder

    def unseen(self, caption: str) -> list[str]:
        return []  # its training data are not known

    @torch.no_grad()
    def forward(self, values: Sequence[str]) -> Condition:
        self.open()
        return OpenCLIPTextEncoder.forward(self, values)


def _text_settings(model: str) -> dict[str, Any]:
    """The arguments of open_clip's text transformer for a model."""
    import open_clip
    from open_clip.transformer import QuickGELU, TextTransformer

    config = open_clip.get_model_config(model)
    if config is None:
        raise InputError(f"condition model {model}: open_clip has no such model, see open_clip.list_models()")
    settings = dict(config["text_cfg"])
    if others := {key for key in settings if key.startswith("hf_")}:
        raise InputError(
            f"condition model {model}: its text tower or tokenizer is one of Hugging Face's ({', '.join(others)}); "
            "choose a model with open_clip's own, such as ViT-H-14"
        )
    known = inspect.signature(TextTransformer).parameters
    settings = {key: value for key, value in settings.items() if key in known}
    return settings | ({"act_layer": QuickGELU} if config.get("quick_gelu") else {})


def open_text_encoder(spec: str) -> PretrainedText:
    """The text encoder of `MODEL:WEIGHTS` (a tag or file) of open_clip, or of a Stable Diffusion folder or hub id."""
    model, colon, weights = spec.partition(":")
    if not colon or Path(spec).exists():
        return StableDiffusionText.of(*StableDiffusion(spec, option="text").text()).requires_grad_(False)
    from cmd_lightning.metrics.clip_similarity import expect_weights

    try:
        expect_weights(model, weights)  # before building a large tower, which takes seconds
        encoder = FrozenOpenCLIP(model, weights)
        encoder.open()
    except InputError as error:
        raise InputError(f"text {spec}: {error}") from error
    return encoder
