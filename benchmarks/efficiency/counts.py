"""Parameters and multiply-adds of systems: per call of a network, per step and per video, on the meta device."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import Any

import torch
from torch import nn

from benchmarks.calls import Call, call_of
from benchmarks.efficiency.rows import NONE, row
from benchmarks.efficiency.systems import Assembled, FrameByFrame, System
from cmd_lightning.commands.files import pixels
from cmd_lightning.provenance import provenance

META = torch.device("meta")


@dataclass(frozen=True)
class Cost:
    """Parameters, and T multiply-adds in full and as the paper counts them."""

    params: int = 0
    tmacs: float = 0.0
    tmacs_paper: float = 0.0

    def times(self, number: int) -> Cost:
        """Of `number` calls of the same networks."""
        return Cost(self.params, number * self.tmacs, number * self.tmacs_paper)

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.params + other.params, self.tmacs + other.tmacs, self.tmacs_paper + other.tmacs_paper)


def cost(call: Call) -> Cost:
    """Of a call."""
    found = call.count()
    return Cost(found.parameters, found.macs / 1e12, found.products / 1e12)


@cache
def networks(system: System, size: tuple[int, int]) -> Mapping[str, Cost]:
    """One call of each network of a system, by name, frame decoders aside.

    Of an autoencoder a sample needs the decoder; the constant in the paper's table 9 fits encoder and decoder, so that
    its counting has both. All its weights are counted.
    """
    assembled = Assembled(system, size, META)
    found = {name: cost(assembled.call(name)) for name in assembled.denoisers}
    if assembled.decode is not None:
        whole = cost(call_of("autoencoder", assembled.decode.autoencoder, [assembled.video]))
        found["autoencoder"] = Cost(whole.params, cost(assembled.call("autoencoder")).tmacs, whole.tmacs_paper)
    return found


def frame_decoder(system: System, size: tuple[int, int], name: str) -> Cost:
    """Of decoding all frames of a video."""
    return Cost() if name == NONE else _decoding(system.decoders[name], system.video(size))


@cache
def _decoding(factory: Callable[[], nn.Module], video: tuple[int, ...]) -> Cost:
    with META:
        network = factory()
        alone = isinstance(network, FrameByFrame)  # all frames cost the same
        latent = torch.empty(1, video[0], 1 if alone else video[1], *video[2:])
    return cost(Call(network, (latent,))).times(video[1] if alone else 1)


def step(system: System, size: tuple[int, int], guidance: bool) -> Cost:
    """One step of all denoisers."""
    once = (found for name, found in networks(system, size).items() if name in system.denoisers)
    return sum(once, Cost()).times(2 if guidance else 1)


def video(system: System, size: tuple[int, int], steps: int, guidance: bool, decoder: str = NONE) -> Cost:
    """A whole sample, text encoder aside."""
    decoding = networks(system, size).get("autoencoder", Cost())
    return step(system, size, guidance).times(steps) + decoding + frame_decoder(system, size, decoder)


def count_rows(
    systems: Mapping[str, System], resolutions: Iterable[str], progress: Callable[[str], object] = lambda text: None
) -> list[dict[str, Any]]:
    """The rows of all systems: calls, steps and videos, with and without guidance and frame decoder."""
    rows = []
    about = {"device": "meta"} | {key: value for key, value in provenance().items() if key in ("versions", "date")}
    for resolution in resolutions:
        size = pixels(resolution)
        for name, system in systems.items():
            progress(f"{name} at {resolution}")
            fixed = {"system": name, "resolution": resolution, "frames": system.frames, "batch": 1} | about
            found = [({"component": part}, spent) for part, spent in networks(system, size).items()]
            for one in system.decoders:
                found.append(({"component": "frame decoder", "decoder": one}, frame_decoder(system, size, one)))
            for guidance in (False, True):
                at = {"component": "step", "steps": 1, "guidance": guidance}
                found.append((at, step(system, size, guidance)))
                for number, one in product((50, 100), (NONE, *system.decoders)):
                    at = {"component": "video", "steps": number, "guidance": guidance, "decoder": one}
                    found.append((at, video(system, size, number, guidance, one)))
            rows += [row(**fixed, **at, **vars(spent)) for at, spent in found]
    return rows
