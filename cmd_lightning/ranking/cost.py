"""The cost of a motion model: parameters, multiply-adds, and seconds compared with the paper's model."""

from __future__ import annotations

import statistics
import time
from typing import Any

import torch

from cmd_lightning.networks import Condition, LatentSpec, MotionModel
from cmd_lightning.networks.counting import count
from cmd_lightning.provenance import processor
from cmd_lightning.ranking.latents import Bench
from cmd_lightning.ranking.protocol import Protocol
from cmd_lightning.ranking.score import with_model

YARDSTICK = "MotionDiT"
"""The model that the others are timed against."""
ROUNDS = 10
"""Timed samplings of each of the two models."""


def counts(network: MotionModel, spec: LatentSpec, condition: Condition) -> dict[str, int]:
    """Parameters, and multiply-adds per step and of `prepare`, which runs once; of one sample, without guidance."""
    motion, content = torch.empty(1, *spec.motion), torch.empty(1, *spec.content)
    timestep = torch.zeros(1, dtype=torch.long)
    whole = count(network, motion, timestep, content, condition, call=lambda model, *inputs: model.predict(*inputs))
    once = count(network, content, call=lambda model, frame: model.prepare(frame))
    return {"parameters": whole.parameters, "macs": whole.macs - once.macs, "prepare_macs": once.macs}


def timing(network: MotionModel, yardstick: MotionModel, bench: Bench, protocol: Protocol) -> dict[str, Any]:
    """Median CPU seconds to sample the motion of one clip on one thread, alternating with the yardstick.

    The ratio is the median ratio of consecutive runs, which other work on the machine affects less. Each model is the
    first of the two as often as the second.
    """
    content, caption = bench.tensors["test/content"][:1], bench.captions["test"][:1]

    def sampled(model: MotionModel) -> float:
        pipeline = with_model(bench, model)
        begun = time.process_time()
        pipeline.generate_motion(content, caption, [0], protocol.steps, protocol.guidance)
        return time.process_time() - begun

    sampled(network), sampled(yardstick)  # warms up
    rows = []
    for number in range(ROUNDS):
        turns = [sampled(model) for model in ((network, yardstick) if number % 2 else (yardstick, network))]
        rows.append(turns if number % 2 else turns[::-1])
    return {
        "seconds": statistics.median(own for own, _ in rows),
        f"seconds_of_{YARDSTICK}": statistics.median(other for _, other in rows),
        "ratio": statistics.median(a / b for a, b in rows),
        "hardware": f"{processor()}, one thread",
    }
