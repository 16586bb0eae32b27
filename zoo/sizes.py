"""The parameters of the zoo's networks at the sizes of their cards or configs, counted without allocating weights."""

from __future__ import annotations

import json
from typing import Any

import torch

from cmd_lightning.errors import InputError, reason
from cmd_lightning.networks import LatentSpec
from cmd_lightning.zoo import WEIGHTS, entry
from cmd_lightning.zoo.discovery import ROOM, Entry, network_of


def count_parameters(of: Entry) -> int:
    """The parameters of a network, counted on the meta device.

    Motion models with a config are built from it, for the latents on which they are ranked; others with their defaults,
    for the video and condition of their card.
    """
    with torch.device("meta"):
        try:
            network = build(of)
        except InputError:
            raise
        except Exception as error:  # the arguments are a file's, the class anyone's
            raise InputError(f"{of.name}: it cannot be built ({reason(error)}); see {of.module}") from error
    return sum(parameter.numel() for parameter in network.parameters())


def build(of: Entry) -> torch.nn.Module:
    """The network of an entry, at the size of its card or config."""
    make, card = of.load(), of.card
    if of.kind == "autoencoder":
        return make()
    if of.kind == "motion":
        return make(*ranked_latents(), **(network_of(ROOM.parent / card.config)[1] if card.config else {}))
    if "shape" not in card.video:
        raise InputError(f"{of.name}: its card has no video with a shape (C, T, H, W) to count for; add it")
    latent: Any = tuple(card.video["shape"])
    if card.autoencoder:
        latent = entry(card.autoencoder).load()(channels=latent[0]).latent_spec(latent)
    return make(latent, card.condition_dim)


def ranked_latents() -> tuple[LatentSpec, int]:
    """The latents of shapes32paper, on which motion models are ranked, and the channels of its condition."""
    settings, index, text = (
        json.loads((WEIGHTS / "shapes32paper" / path).read_text())
        for path in ("autoencoder/config.json", "model_index.json", "motion_text_encoder/config.json")
    )
    arguments = {key: value for key, value in settings.items() if not key.startswith("_")}
    autoencoder = entry(settings["_class_name"]).load()(**arguments)
    return autoencoder.latent_spec(tuple(index["video_shape"])), text["text_cfg"]["width"]
