"""Seconds and memory of samples, cell by cell: `Settings`, `cells`, `measure`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import product
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.cells import Cell, Rows, check_device, cleared, clock, device_name
from benchmarks.efficiency import counts
from benchmarks.efficiency.rows import row
from benchmarks.efficiency.run import AUTOENCODER, Run, optimise
from benchmarks.efficiency.scales import SCALES
from benchmarks.efficiency.systems import System
from cmd_lightning.commands.files import pixels
from cmd_lightning.errors import InputError
from cmd_lightning.provenance import provenance
from cmd_lightning.threads import one_thread

Decoding = tuple[float, float | None]
"""Seconds of a frame decoder, and peak memory of sample and decoding."""


@dataclass(frozen=True)
class Settings:
    """What is measured.

    Attributes:
        scale: Of `SCALES`: which systems, how large.
        resolutions: Of videos, "HEIGHTxWIDTH"; the last is the core cell's.
        batches: Videos at once; the first is the core cell's.
        steps: Of each denoiser in a video; the first is the core cell's, which is timed as a whole.
        guidance: Whether each denoiser is called twice a step, the choices to measure; the first is the core cell's.
        compiled: Whether with torch.compile and CUDA graphs, the choices to measure.
        decoders: Frame decoders after the sample, out of "full" and "tiny".
        device: "cuda" or "cpu".
        dtype: Of weights and latents.
        rounds: Of which the median counts.
        warm_up: Steps of each denoiser before anything is timed.
        timed_steps: In a round of cells that are not timed as a whole.
        together: Whether all systems take turns, round by round, so that other work on the machine hits them alike.
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

    @property
    def core(self) -> Cell:
        """What the core cells have in common, which are timed as a whole."""
        return {"resolution": self.resolutions[-1], "batch": self.batches[0], "guidance": self.guidance[0]}


def cells(settings: Settings) -> list[Cell]:
    """All that is measured: the core cells first, and what needs no compiler before what does."""
    systems = [{}] if settings.together else [{"system": name} for name in settings.systems]
    at = (settings.resolutions, settings.batches, settings.guidance, settings.compiled)
    keys = ("resolution", "batch", "guidance", "compiled")
    found = [dict(zip(keys, values, strict=True)) | system for *values, system in product(*at, systems)]
    return sorted(found, key=lambda cell: (not settings.core.items() <= cell.items(), cell["compiled"]))


def measure(cell: Cell, settings: Settings) -> Rows:
    """The rows of a cell: of each system the whole sample, by steps and frame decoder, and its networks.

    Memory that does not suffice is a result too: no seconds.
    """
    device = torch.device(settings.device)
    with cleared(device), one_thread(), torch.no_grad():
        return _measure(cell, settings, device)  # whose networks are gone when memory is cleared


def _measure(cell: Cell, settings: Settings, device: torch.device) -> Rows:
    torch.manual_seed(0)
    names = [cell["system"]] if "system" in cell else list(settings.systems)
    whole = settings.core.items() <= cell.items()
    about = provenance()
    fixed = {**cell, "dtype": settings.dtype, "device": device_name(device), "published": settings.scale == "paper"}
    fixed |= {key: about[key] for key in ("versions", "date")}
    rows: Rows = []
    try:
        runs = {name: run_of(settings, cell, name) for name in names}
        _forget_peak(device)
        for _ in range(settings.rounds):
            for run in runs.values():
                run.round(settings.steps[0] if whole else 1 + settings.timed_steps, whole)
        peak = None if settings.together else _peak(device)
        decoded: dict[Any, Decoding] = {}
        for name, run in runs.items():
            system = settings.systems[name]
            decoding: dict[str, Decoding] = {counts.NONE: (0.0, peak)}
            for decoder in (one for one in system.decoders if one in settings.decoders):
                # Systems of the same decoder and latents share the measurement.
                key = system.decoders[decoder], run.latent.shape
                if key not in decoded:
                    decoded[key] = _decode(system.decoders[decoder], run.latent, cell["compiled"], settings, peak)
                decoding[decoder] = decoded[key]
            rows += _rows(fixed | {"system": name, "frames": system.frames}, run, settings, decoding)
    except torch.OutOfMemoryError:
        none = {"component": "video", "decoder": counts.NONE}
        every = product(names, settings.steps)
        systems = {name: {"system": name, "frames": settings.systems[name].frames} for name in names}
        return [row(**fixed | none | systems[name], steps=steps) for name, steps in every]
    return rows


def run_of(settings: Settings, cell: Cell, name: str) -> Run:
    """A system as a cell has it, ready to sample."""
    device, dtype = torch.device(settings.device), getattr(torch, settings.dtype)
    how = {key: cell[key] for key in ("batch", "guidance", "compiled")} | {"warm_up": settings.warm_up}
    return Run(settings.systems[name], pixels(cell["resolution"]), device, dtype, **how)


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
    _forget_peak(device)
    taken = []
    for _ in range(settings.rounds):
        begun = clock(device)
        network(latent)
        taken.append(clock(device) - begun)
    return median(taken), None if peak is None else max(peak + weights, _peak(device))


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
        calls = 1 if part == AUTOENCODER or not guided else 2
        at = {"component": part, "decoder": counts.NONE, "seconds": median(one[part] for one in run.rounds)}
        found.append((at | {"steps": None if part == AUTOENCODER else 1}, spent.times(calls)))
    for decoder, (after, _) in decoding.items():
        if decoder != counts.NONE:
            at = {"component": "frame decoder", "decoder": decoder, "seconds": after}
            found.append((at, counts.frame_decoder(system, size, decoder)))
    return [row(**fixed, **at, **vars(spent.times(fixed["batch"]))) for at, spent in found]


def _forget_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()


def _peak(device: torch.device) -> float | None:
    return torch.cuda.max_memory_allocated() / 1e9 if device.type == "cuda" else None
