"""The cost of training and sampling a system in multiply-adds, and the number of steps that a budget allows."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

import torch

from benchmarks.quality.budgets import Budget
from benchmarks.quality.systems import CACHED, DATA, Part, Parts
from cmd_lightning import zoo
from cmd_lightning.networks import Condition, LatentSpec
from cmd_lightning.networks.counting import count

WIDTH = 64
"""Channels of the condition."""
BACKWARD = 2
"""Forward passes that a backward pass takes."""


@dataclass(frozen=True)
class Calls:
    """Multiply-adds of one sample.

    Attributes:
        networks: A forward pass of each stage's network.
        encode: Encoding a clip for each later stage, once; nothing without an autoencoder.
        decode: Decoding a clip; 0 without an autoencoder.
        parameters: Of all networks.
    """

    networks: Mapping[str, int]
    encode: Mapping[str, int]
    decode: int
    parameters: int

    def training(self, stage: str, samples: int) -> int:
        """Of training a stage on so many clips: forward, backward, and encoding those that are not kept yet."""
        encoded = min(samples, CACHED) * self.encode.get(stage, 0)
        return samples * (1 + BACKWARD) * self.networks[stage] + encoded

    def sampling(self, steps: int, guided: Mapping[str, bool]) -> int:
        """Of one video; a guided stage takes two passes per step."""
        denoisers = {stage: macs for stage, macs in self.networks.items() if stage != "autoencoder"}
        return steps * sum(macs * (1 + guided[stage]) for stage, macs in denoisers.items()) + self.decode


def calls(parts: Parts) -> Calls:
    """Counted on the meta device, once."""
    return _counted(json.dumps([asdict(part) for part in parts], sort_keys=True))


@cache
def _counted(described: str) -> Calls:
    parts = [Part(**part) for part in json.loads(described)]
    data = DATA | dict(parts[0].data)
    video = (3, data["num_frames"], data["size"], data["size"])
    found: dict[str, int] = {}
    encode: dict[str, int] = {}
    decode = parameters = 0
    spec: Any = video
    with torch.device("meta"):
        clip = torch.empty(1, *video)
        timestep, condition = torch.zeros(1), Condition(torch.empty(1, WIDTH))
        for part in parts:
            if part.stage == "autoencoder":
                network = _built(part.network)
                spec = network.latent_spec(video)
                whole = count(network, clip)
                encode = dict.fromkeys(
                    ("motion", "video"), count(network, clip, call=lambda net, x: net.encode(x)).macs
                )
                encode["content"] = count(network, clip, call=lambda net, x: net.encode_content(x)).macs
                decode = whole.macs - encode["motion"]
            else:
                network = _built(part.network, spec, WIDTH)
                inputs, call = _inputs(part.stage, spec)
                whole = count(network, inputs[0], timestep, *inputs[1:], condition, call=call)
            found[part.stage] = whole.macs
            parameters += whole.parameters
    return Calls(found, encode, decode, parameters)


def _built(described: Mapping[str, Any], *first: Any) -> Any:
    return zoo.entry(described["class_path"]).load()(*first, **described["init_args"])


def _inputs(stage: str, spec: Any) -> tuple[list[torch.Tensor], Any]:
    """The latents that a denoiser takes, noisy one first, and how it is called."""
    if stage == "motion":
        return [torch.empty(1, *spec.motion), torch.empty(1, *spec.content)], lambda model, *x: model.predict(*x)
    if stage == "content":
        return [torch.empty(1, *spec.content)], None
    return [torch.empty(1, *(spec.packed if isinstance(spec, LatentSpec) else spec))], None


def steps_of(
    parts: Parts, budget: Budget, rates: Mapping[str, float] | None = None, batch: int | None = None
) -> dict[str, int]:
    """The optimiser steps of each stage that a budget is enough for, at least one.

    Args:
        parts: The stages.
        budget: Split among them by their shares.
        rates: CPU seconds per step of each stage, for a budget of seconds.
        batch: Clips per step in the place of the parts' own.
    """
    made = calls(parts) if budget.kind == "macs" else None
    found = {}
    for part in parts:
        own, size = part.share * budget.amount, batch or part.batch
        if budget.kind == "seconds":
            assert rates is not None, "a budget of seconds needs rates"
            number = own / rates[part.stage]
        elif made is not None:
            number = affordable(made, part.stage, own) / size
        else:
            number = own / size
        found[part.stage] = max(1, int(number))
    return found


def affordable(made: Calls, stage: str, macs: float) -> float:
    """The clips on which a stage can be trained with so many multiply-adds."""
    each = (1 + BACKWARD) * made.networks[stage]
    encode = made.encode.get(stage, 0)
    number = macs / (each + encode)
    return number if number <= CACHED else (macs - CACHED * encode) / each
