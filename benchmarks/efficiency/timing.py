"""Seconds and memory of samples, cell by cell: `Settings`, `cells`, `measure`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.cells import Cell, Rows, check_device, cleared, now
from benchmarks.efficiency import counts
from benchmarks.efficiency.frame_decoders import FrameByFrame
from benchmarks.efficiency.rows import row
from benchmarks.efficiency.scales import SCALES
from benchmarks.efficiency.systems import Assembled, System
from cmd_lightning.commands.files import pixels
from cmd_lightning.errors import InputError
from cmd_lightning.networks import Condition
from cmd_lightning.provenance import provenance

@dataclass(frozen=True)
class Settings:
    """What is measured.

    Attributes:
        scale: of `SCALES`: which systems, how large.
        resolutions: of videos, "HEIGHTxWIDTH"; the last is the core cell's.
        batches: videos at once; the first is the core cell's.
        steps: of each denoiser in a video; the first is the core cell's, which is timed as a whole.
        guidance: whether each denoiser is called twice a step, the choices to measure; the first is the core cell's.
        compiled: whether with torch.compile and CUDA graphs, the choices to measure.
        decoders: frame decoders after the sample, out of "full" and "tiny".
        device: "cuda" or "cpu".
        dtype: of weights and latents.
        rounds: of which the median counts.
        warm_up: steps of each denoiser before anything is timed.
        timed_steps: in a round of cells that are not timed as a whole.
        together: whether all systems take turns, round by round, so that other work on the machine hits them alike.
    """

    scale: str = "paper"
    resolutions: tuple[str, ...] = ("512x512", "512x1024")
    batches: tuple[int, ...] = (1, 4)
    steps: tuple[int, ...] = (50, 100)
    guidance: tuple[bool, ...] = (False, True)
    compiled: tuple[bool, ...] = (False, True)
    decoders: tuple[str, ...] = ("full", "tiny")
    device: str = "cuda"
    dtype: str = "bfloat16"
    rounds: int = 3
    warm_up: int = 3
    timed_steps: int = 5
    together: bool = False

    def __post_init__(self) -> None:
        if self.scale not in SCALES:
            raise InputError(f"--scale {self.scale}: there is no such scale; give {', '.join(SCALES)}")
        check_device(self.device)
        for resolution in self.resolutions:
            for system in self.systems.values():
                system.video(pixels(resolution))

    @property
    def systems(self) -> Mapping[str, System]:
        """What is compared, by name."""
        return SCALES[self.scale]

    def core(self, cell: Cell) -> bool:
        """Whether a cell is timed as a whole."""
        first = (self.resolutions[-1], self.batches[0], self.guidance[0])
        return (cell["resolution"], cell["batch"], cell["guidance"]) == first


def cells(settings: Settings) -> list[Cell]:
    """All that is measured: the core cells first, and what needs no compiler before what does."""
    found = [
        {"resolution": resolution, "batch": batch, "guidance": guidance, "compiled": compiled} | system
        for resolution in settings.resolutions
        for batch in settings.batches
        for guidance in settings.guidance
        for compiled in settings.compiled
        for system in ([{}] if settings.together else [{"system": name} for name in settings.systems])
    ]
    return sorted(found, key=lambda cell: (not settings.core(cell), cell["compiled"]))


class Run:
    """A system on a device, ready to sample.

    Attributes:
        rounds: seconds of each round: of a step of each denoiser, and of the autoencoder, by name.
    """

    def __init__(self, system: System, cell: Cell, settings: Settings) -> None:
        self.device = torch.device(settings.device)
        self.whole = settings.steps[0] if settings.core(cell) else None
        self.timed_steps, self.guidance = settings.timed_steps, cell["guidance"]
        dtype, batch = getattr(torch, settings.dtype), cell["batch"]
        self.assembled = assembled = Assembled(system, pixels(cell["resolution"]), self.device)
        parts = [*assembled.denoisers.values(), *([assembled.decode] if assembled.decode else [])]
        for part in parts:
            optimise(part, dtype, cell["compiled"])
        on = {"device": self.device, "dtype": dtype}
        self.noise = {name: torch.randn(batch, *shape, **on) for name, shape in assembled.shapes.items()}
        self.captions = tuple(
            Condition(torch.randn(batch, system.width, **on), torch.randn(batch, system.tokens, system.width, **on))
            for _ in range(2)
        )
        self.rounds: list[dict[str, float]] = []
        self.latent: Tensor = self.sample(settings.warm_up)

    def sample(self, steps: int, **hooks: Callable[[str], object]) -> Tensor:
        """A video's latents."""
        return self.assembled.generate(self.noise, self.captions, steps, self.guidance, **hooks)

    def round(self) -> None:
        """Times a whole sample; or a few steps, each waited for, and the autoencoder."""
        taken: dict[str, list[float]] = defaultdict(list)
        last = now(self.device)

        def stamp(name: str) -> None:
            nonlocal last
            taken[name].append(now(self.device) - last)
            last += taken[name][-1]

        if self.whole:
            self.latent = self.sample(self.whole, on_end=stamp)
            steps = {name: 1 if name == "autoencoder" else self.whole for name in taken}
            self.rounds.append({name: found[0] / steps[name] for name, found in taken.items()})
            return
        # The first step also waits for the schedule; the end of a denoiser is that of its last step.
        self.sample(1 + self.timed_steps, on_step=stamp, on_end=lambda name: name == "autoencoder" and stamp(name))
        steady = {name: found[1:] or found for name, found in taken.items()}
        self.rounds.append({name: median(found) for name, found in steady.items()})

    def seconds(self, steps: int, decoding: float = 0.0) -> list[float]:
        """Of a sample with its frames decoded, for each round."""
        calls = {"autoencoder": 1}
        return [decoding + sum(calls.get(name, steps) * taken for name, taken in one.items()) for one in self.rounds]


def optimise(network: nn.Module, dtype: torch.dtype, compiled: bool) -> None:
    """What is done to all networks alike; attention is torch's fused one in all of them."""
    nn.Module.to(network, dtype)  # that of diffusers warns of nothing
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.to(memory_format=torch.channels_last)
    if compiled:
        (network.decoder if isinstance(network, FrameByFrame) else network).compile(mode="reduce-overhead")


def measure(cell: Cell, settings: Settings) -> Rows:
    """The rows of a cell: of each system the whole sample, by steps and frame decoder, and its networks.

    Memory that does not suffice is a result too: no seconds.
    """
    torch.manual_seed(0)
    device = torch.device(settings.device)
    names = [cell["system"]] if "system" in cell else list(settings.systems)
    with cleared(device), torch.no_grad():
        try:
            runs = {name: Run(settings.systems[name], cell, settings) for name in names}
            _forget_peak(device)
            for _ in range(settings.rounds):
                for run in runs.values():
                    run.round()
            peak = None if settings.together else _peak(device)
            decoding = _decode(cell, settings, runs, peak)
        except torch.OutOfMemoryError:
            runs = dict.fromkeys(names)
            peak, decoding = None, {name: {} for name in names}
        about = provenance()
        fixed = {**cell, "dtype": settings.dtype, "device": about["hardware"]}
        fixed |= {key: about[key] for key in ("versions", "date")}
        return [
            one
            for name, run in runs.items()
            for one in _rows(fixed | {"system": name}, run, settings, peak, decoding[name])
        ]


def _decode(
    cell: Cell, settings: Settings, runs: Mapping[str, Run], peak: float | None
) -> dict[str, dict[str, tuple[float, float | None]]]:
    """Seconds, and peak memory of sample and decoding, of each system's frame decoders, by name.

    Systems of the same decoder and latents share the measurement.
    """
    device, dtype = torch.device(settings.device), getattr(torch, settings.dtype)
    measured: dict[Any, tuple[float, float | None]] = {}
    found: dict[str, dict[str, tuple[float, float | None]]] = {name: {} for name in runs}
    for name, run in runs.items():
        for decoder, factory in settings.systems[name].decoders.items():
            if decoder not in settings.decoders:
                continue
            key = factory, run.latent.shape
            if key not in measured:
                with device:
                    network = factory().eval()
                optimise(network, dtype, cell["compiled"])
                weights = sum(weight.nbytes for weight in network.parameters()) / 1e9
                network(run.latent)
                _forget_peak(device)
                taken = []
                for _ in range(settings.rounds):
                    begun = now(device)
                    network(run.latent)
                    taken.append(now(device) - begun)
                decoded = _peak(device)
                measured[key] = median(taken), None if peak is None else max(peak + weights, decoded)
                del network
            found[name][decoder] = measured[key]
    return found


def _rows(
    fixed: dict[str, Any],
    run: Run | None,
    settings: Settings,
    peak: float | None,
    decoding: Mapping[str, tuple[float, float | None]],
) -> Rows:
    """The rows of a system; all of them have the fields `fixed`."""
    system, size, guided = settings.systems[fixed["system"]], pixels(fixed["resolution"]), fixed["guidance"]
    fixed = fixed | {"frames": system.frames}
    if run is None:
        return [row(**fixed, component="video", steps=steps, decoder=counts.NONE) for steps in settings.steps]
    found = []
    for steps in settings.steps:
        for decoder, (after, memory) in ({counts.NONE: (0.0, peak)} | dict(decoding)).items():
            rounds = run.seconds(steps, after)
            spent = counts.video(system, size, steps, guided, decoder)
            measured = steps == run.whole
            at = {"component": "video", "steps": steps, "decoder": decoder, "extrapolated": not measured}
            at |= {"seconds": median(rounds), "rounds": rounds if measured else None, "memory_gb": memory}
            found.append((at, spent))
    for part, spent in counts.networks(system, size).items():
        calls = 1 if part == "autoencoder" or not guided else 2
        at = {"component": part, "decoder": counts.NONE, "seconds": median(one[part] for one in run.rounds)}
        found.append((at | {"steps": None if part == "autoencoder" else 1}, spent.times(calls)))
    for decoder, (after, _) in decoding.items():
        at = {"component": "frame decoder", "decoder": decoder, "seconds": after}
        found.append((at, counts.frame_decoder(system, size, decoder)))
    return [row(**fixed, **at, **vars(spent.times(fixed["batch"]))) for at, spent in found]


def _forget_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()


def _peak(device: torch.device) -> float | None:
    return torch.cuda.max_memory_allocated() / 1e9 if device.type == "cuda" else None
