"""open_clip_model: CLIP models by name, with the weights they were made for."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torchmetrics.utilities import rank_zero_warn

from cmd_lightning.errors import InputError, reason
from cmd_lightning.metrics.torchscript import UNTRUSTED, is_torchscript, load_torchscript
from cmd_lightning.provenance import sha256

# open_clip takes seconds to import, so it is imported where it is needed.

Tokenizer = Callable[[list[str]], Tensor]


def open_clip_model(
    model: str, pretrained: str | Path, trust_torchscript: bool = False
) -> tuple[nn.Module, Tokenizer, dict[str, Any]]:
    """A CLIP model, its tokenizer, and what was opened.

    Weights that were trained with the activation QuickGELU, OpenAI's above all, give plausible but wrong values in a
    model without it. Of published tags this is known, and so it is of OpenAI's own archives (TorchScript); of other
    files the path tells it at best.

    Args:
        model: A name out of `open_clip.list_models()`.
        pretrained: A tag of published weights, which are looked up in the local cache or downloaded; or a file.
        trust_torchscript: Whether to open a file of TorchScript, as OpenAI's own are. It is a program: trust its
            author.

    Returns:
        Model, tokenizer, and plain data for a result's record: "model", "pretrained", of a file "sha256", and perhaps
        "warning".

    Raises:
        InputError: An unknown name, weights that cannot be had, such that need QuickGELU, or TorchScript without trust.
    """
    import open_clip

    if model not in open_clip.list_models():
        raise InputError(f"model {model}: open_clip has no such model, see open_clip.list_models()")
    file, tag = Path(pretrained), open_clip.get_pretrained_cfg(model, str(pretrained))
    if not tag and not file.is_file():
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(model)) or "none"
        raise InputError(f"pretrained {pretrained}: no file, nor a tag of {model}; give a file or one of: {tags}")
    record = {"model": model, "pretrained": str(pretrained) if tag else file.name}
    scripted = not tag and is_torchscript(file)
    quick = f"{model}-quickgelu"
    if quick in open_clip.list_models():
        if scripted or tag.get("quick_gelu"):
            raise InputError(f"model {model}: weights {pretrained} were trained with QuickGELU; use {quick}")
        if not tag and "openai" in str(file.resolve()).lower():
            record["warning"] = f"model {model}: {file.name} seems to be OpenAI's, and those weights need {quick}"
            rank_zero_warn(record["warning"])
    if scripted and not trust_torchscript:
        raise InputError(f"pretrained {pretrained}: {UNTRUSTED.format(call='CLIPSimilarity')}")
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)  # open_clip logs what it is about to raise
    try:
        if scripted:
            network = open_clip.create_model(model, pretrained_text=False)
            network.load_state_dict(_scripted_weights(file))
        else:
            network = open_clip.create_model(model, pretrained=str(pretrained), weights_only=True)
        tokenizer = open_clip.get_tokenizer(model)
    except Exception as error:  # of pickle, zipfile, safetensors, the Hub, the interpreter of TorchScript
        if not tag:
            message = f"no weights of {model} ({reason(error)}); check the file"
        else:
            message = (
                f"weights of {model} are neither in the local cache nor to be downloaded ({reason(error)}); open them "
                "once where there is a network, or give pretrained= a file"
            )
        raise InputError(f"pretrained {pretrained}: {message}") from error
    finally:
        logging.disable(before)
    if not tag:
        record["sha256"] = sha256(file)
    return network, tokenizer, record


def _scripted_weights(file: Path) -> dict[str, Tensor]:
    """The weights in an archive like OpenAI's, without its settings."""
    settings = ("input_resolution", "context_length", "vocab_size")
    return {name: value for name, value in load_torchscript(file).state_dict().items() if name not in settings}
