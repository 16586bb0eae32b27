"""A system that samples against the clock."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from statistics import median

import torch
from torch import Tensor, nn

from benchmarks.cells import clock
from benchmarks.efficiency.frame_decoders import FrameByFrame
from benchmarks.efficiency.systems import Assembled, System
from cmd_lightning.networks import Condition

AUTOENCODER = "autoencoder"
"""The network that a video needs once."""


class Run:
    """A system on a device, ready to sample.

    Args:
        system: Which.
        size: (H, W) of the videos in pixels.
        device: Where.
        dtype: Of weights and latents.
        batch: Videos at once.
        guidance: Whether each denoiser is called on two captions a step.
        compiled: Whether its networks are.
        warm_up: Steps of each denoiser before anything is timed.

    Attributes:
        rounds: Seconds of each round: of a step of each denoiser, and of the autoencoder, by name.
    """

    def __init__(
        self,
        system: System,
        size: tuple[int, int],
        device: torch.device,
        dtype: torch.dtype,
        batch: int,
        guidance: bool,
        compiled: bool,
        warm_up: int,
    ) -> None:
        self.device, self.guidance = device, guidance
        self.assembled = assembled = Assembled(system, size, device)
        for part in [*assembled.denoisers.values(), *([assembled.decode] if assembled.decode else [])]:
            optimise(part, dtype, compiled)
        on = {"device": self.device, "dtype": dtype}
        self.noise = {name: torch.randn(batch, *shape, **on) for name, shape in assembled.shapes.items()}
        self.captions = tuple(
            Condition(torch.randn(batch, system.width, **on), torch.randn(batch, system.tokens, system.width, **on))
            for _ in range(2)
        )
        self.rounds: list[dict[str, float]] = []
        self.latent: Tensor = self.sample(warm_up)

    def sample(self, steps: int, **hooks: Callable[[str], object]) -> Tensor:
        """A video's latents."""
        return self.assembled.generate(self.noise, self.captions, steps, self.guidance, **hooks)

    def round(self, steps: int, whole: bool) -> None:
        """Times a sample of so many steps as a whole; or its autoencoder and each step but the first, waited for."""
        taken: dict[str, list[float]] = defaultdict(list)
        last = clock(self.device)

        def stamp(name: str) -> None:
            nonlocal last
            taken[name].append(clock(self.device) - last)
            last += taken[name][-1]

        if whole:
            self.latent = self.sample(steps, on_end=stamp)
            self.rounds.append({name: found[0] / calls(name, steps) for name, found in taken.items()})
            return
        # The first step also waits for the schedule; the end of a denoiser is that of its last step.
        self.sample(steps, on_step=stamp, on_end=lambda name: name == AUTOENCODER and stamp(name))
        steady = {name: found[1:] or found for name, found in taken.items()}
        self.rounds.append({name: median(found) for name, found in steady.items()})

    def seconds(self, steps: int, decoding: float = 0.0) -> list[float]:
        """Of a sample with its frames decoded, for each round."""
        return [decoding + sum(calls(name, steps) * taken for name, taken in one.items()) for one in self.rounds]


def calls(name: str, steps: int) -> int:
    """How often a network does its part in a video."""
    return 1 if name == AUTOENCODER else steps


def optimise(network: nn.Module, dtype: torch.dtype, compiled: bool) -> None:
    """What is done to all networks alike; attention is torch's fused one in all of them."""
    for weight in network.parameters():
        if weight.ndim > 1 and not weight.any():
            nn.init.normal_(weight, std=0.02)  # a GPU multiplies zeros in less power, and so faster
    nn.Module.to(network, dtype)  # diffusers' own warns of nothing
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.to(memory_format=torch.channels_last)
    if compiled:
        (network.decoder if isinstance(network, FrameByFrame) else network).compile(mode="reduce-overhead")
