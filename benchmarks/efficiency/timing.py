"""Seconds and memory of samples, cell by cell; and the most expensive operators of a step."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import product
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from benchmarks.cells import Cell, Rows, check_device, cleared, clock, device_name, timed
from benchmarks.efficiency import counts
from benchmarks.efficiency.rows import NONE, row
from benchmarks.efficiency.scales import SCALES
from benchmarks.efficiency.systems import Assembled, FrameByFrame, System
from cmd_lightning.commands.files import pixels
from cmd_lightning.errors import InputError
from cmd_lightning.markdown import table
from cmd_lightning.networks import Condition
from cmd_lightning.provenance import provenance
from cmd_lightning.threads import one_thread

AUTOENCODER = "autoencoder"
"""The network that a video needs once."""
PROFILED, TOP = 3, 6
"""Steps of each denoiser that are profiled, and operators that are shown of each system."""

Decoding = tuple[float, float | None]
"""Seconds of a frame decoder, and peak memory of sample and decoding."""


@dataclass(frozen=True)
class Settings:
    """What is measured; the core cell, whose sample is timed as a whole, has the first of each choice."""

    scale: str = "paper"
    resolutions: tuple[str, ...] = ("512x512", "512x1024")  # the core cell's is the last
    batches: tuple[int, ...] = (1, 4)
    steps: tuple[int, ...] = (50, 100)  # of each denoiser in a video
    guidance: tuple[bool, ...] = (False, True)  # whether each denoiser is called twice a step
    compiled: tuple[bool, ...] = (False, True)  # both are core cells
    decoders: tuple[str, ...] = ("full", "tiny")
    device: str = "cuda"
    dtype: str = "bfloat16"
    rounds: int = 3  # of which the median counts
    warm_up: int = 3  # steps of each denoiser before anything is timed
    timed_steps: int = 5  # in a round of cells that are not timed as a whole
    together: bool = False  # systems take turns, round by round, so that other work on the machine hits them alike

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

    @property
    def core(self) -> Cell:
        """What the core cells have in common."""
        return {"resolution": self.resolutions[-1], "batch": self.batches[0], "guidance": self.guidance[0]}


def cells(settings: Settings) -> list[Cell]:
    """All that is measured: the core cells first, and what needs no compiler before what does."""
    systems = [{}] if settings.together else [{"system": name} for name in settings.systems]
    at = (settings.resolutions, settings.batches, settings.guidance, settings.compiled)
    keys = ("resolution", "batch", "guidance", "compiled")
    found = [dict(zip(keys, values, strict=True)) | system for *values, system in product(*at, systems)]
    return sorted(found, key=lambda cell: (not settings.core.items() <= cell.items(), cell["compiled"]))


class Run:
    """A system as a cell has it, ready to sample.

    Attributes:
        rounds: Seconds of each round: of a step of each denoiser, and of the autoencoder, by name.
    """

    def __init__(self, settings: Settings, cell: Cell, name: str) -> None:
        system, self.guidance = settings.systems[name], cell["guidance"]
        self.device, dtype = torch.device(settings.device), getattr(torch, settings.dtype)
        self.assembled = assembled = Assembled(system, pixels(cell["resolution"]), self.device)
        for part in [*assembled.denoisers.values(), *([assembled.decode] if assembled.decode else [])]:
            optimise(part, dtype, cell["compiled"])
        batch, on = cell["batch"], {"device": self.device, "dtype": dtype}
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
        self.rounds.append({name: median(found[1:] or found) for name, found in taken.items()})

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


def measure(cell: Cell, settings: Settings) -> Rows:
    """The rows of a cell: samples by steps and frame decoder, and networks; no seconds where memory is too small."""
    device = torch.device(settings.device)
    about = provenance()
    fixed = {**cell, "dtype": settings.dtype, "device": device_name(device), "published": settings.scale == "paper"}
    fixed |= {key: about[key] for key in ("versions", "date")}
    names = [cell["system"]] if "system" in cell else list(settings.systems)
    systems = {name: fixed | {"system": name, "frames": settings.systems[name].frames} for name in names}
    with cleared(device), one_thread(), torch.no_grad():
        try:
            return _measure(cell, settings, systems)  # whose networks are gone when memory is cleared
        except torch.OutOfMemoryError:
            none = {"component": "video", "decoder": NONE}
            return [row(**fixed | none, steps=steps) for fixed, steps in product(systems.values(), settings.steps)]


def _measure(cell: Cell, settings: Settings, systems: Mapping[str, dict[str, Any]]) -> Rows:
    torch.manual_seed(0)
    whole = settings.core.items() <= cell.items()
    steps = settings.steps[0] if whole else 1 + settings.timed_steps
    runs = {name: Run(settings, cell, name) for name in systems}
    device = torch.device(settings.device)
    _, peak = timed(lambda: [run.round(steps, whole) for run in runs.values()], settings.rounds, device)
    peak = None if settings.together else peak  # which is of all systems
    decoded: dict[Any, Decoding] = {}  # systems of the same decoder and latents share the measurement
    rows: Rows = []
    for name, run in runs.items():
        decoding: dict[str, Decoding] = {NONE: (0.0, peak)}
        for decoder, factory in settings.systems[name].decoders.items():
            if decoder in settings.decoders:
                key = factory, run.latent.shape
                if key not in decoded:
                    decoded[key] = _decode(factory, run.latent, cell["compiled"], settings, peak)
                decoding[decoder] = decoded[key]
        rows += _rows(systems[name], run, settings, decoding)
    return rows


def _decode(
    factory: Callable[[], nn.Module], latent: Tensor, compiled: bool, settings: Settings, peak: float | None
) -> Decoding:
    """A frame decoder, after samples whose memory is `peak`."""
    device = torch.device(settings.device)
    with device:
        network = factory().eval()
    optimise(network, getattr(torch, settings.dtype), compiled)
    weights = sum(weight.nbytes for weight in network.parameters()) / 1e9
    network(latent)
    taken, memory = timed(lambda: network(latent), settings.rounds, device)
    return median(taken), None if peak is None or memory is None else max(peak + weights, memory)


def _rows(fixed: dict[str, Any], run: Run, settings: Settings, decoding: Mapping[str, Decoding]) -> Rows:
    """The rows of a system; all of them have the fields `fixed`."""
    system, size, guided = settings.systems[fixed["system"]], pixels(fixed["resolution"]), fixed["guidance"]
    found = []
    for steps, (decoder, (after, memory)) in product(settings.steps, decoding.items()):
        rounds = run.seconds(steps, after)
        measured = settings.core.items() <= fixed.items() and steps == settings.steps[0]
        at = {"component": "video", "steps": steps, "decoder": decoder, "extrapolated": not measured}
        at |= {"seconds": median(rounds), "rounds": rounds if measured else None, "memory_gb": memory}
        found.append((at, counts.video(system, size, steps, guided, decoder)))
    for part, spent in counts.networks(system, size).items():
        once = part == AUTOENCODER
        at = {"component": part, "decoder": NONE, "seconds": median(one[part] for one in run.rounds)}
        found.append((at | {"steps": None if once else 1}, spent.times(1 if once or not guided else 2)))
    for decoder, (after, _) in decoding.items():
        if decoder != NONE:
            at = {"component": "frame decoder", "decoder": decoder, "seconds": after}
            found.append((at, counts.frame_decoder(system, size, decoder)))
    return [row(**fixed, **at, **vars(spent.times(fixed["batch"]))) for at, spent in found]


def operators(settings: Settings, cell: Cell, name: str) -> list[dict[str, Any]]:
    """Operators of a few steps and the autoencoder of a system: name, share of the time, calls; the longest first."""
    cuda = settings.device == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    with cleared(torch.device(settings.device)), one_thread(), torch.no_grad():
        run = Run(settings, cell, name)
        with profile(activities=activities) as watched:
            run.sample(PROFILED)
    events = watched.key_averages()
    times = {event.key: event.self_device_time_total if cuda else event.self_cpu_time_total for event in events}
    whole = sum(times.values())
    found = [{"operator": one.key, "share": times[one.key] / whole, "calls": one.count} for one in events]
    return sorted(found, key=lambda one: -one["share"])


def profile_table(settings: Settings) -> str:
    """The operators that take most of a step, of every system."""
    lines = []
    for name in settings.systems:
        found = operators(settings, settings.core | {"compiled": False}, name)
        longest = [f"{one['operator'].removeprefix('aten::')} {100 * one['share']:.0f} %" for one in found[:TOP]]
        lines.append((name, sum(one["calls"] for one in found), ", ".join(longest)))
    return table(("system", f"operators in {PROFILED} steps", "share of their time"), lines)
