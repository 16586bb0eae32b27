"""The cost of the video metrics: seconds compared with the bare network and with peers, and memory.

    OMP_NUM_THREADS=2 python -m benchmarks.metrics --json benchmarks/results/metrics.json   # four minutes on two cores

No weights are needed: time does not depend on values, so the I3D's are random. All seconds are medians over rounds
in which all compared functions take turns, after a warm-up round, so that other work on the machine affects all of
them alike.
"""

import json
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.cells import add_json, check_device, command_line, in_turn, save, spread
from cmd_lightning.compat import torchmetrics_frechet
from cmd_lightning.errors import InputError, program
from cmd_lightning.metrics import (
    I3D,
    PRESETS,
    FrechetVideoDistance,
    frechet_distance,
    frechet_distance_from_features,
    kernel_distance,
)
from cmd_lightning.metrics.frechet import moments, sampling_bias, shrunk
from cmd_lightning.metrics.inputs import unit_range
from cmd_lightning.metrics.preparation import prepare
from cmd_lightning.provenance import provenance

Calls = dict[str, Callable[[int], Any]]


@dataclass(frozen=True)
class Settings:
    """What is measured."""

    clips: int = 32  # real ones, and as many generated ones, for the Fréchet video distance; a multiple of `batch`
    batch: int = 4
    shape: tuple[int, int, int] = (16, 64, 64)  # (T, H, W) of a clip, which is uint8 and has three channels
    dim: int = 400  # features, where no network gives them
    samples: int = 2048  # vectors of features in either set for the solve; the usual number
    few: int = 128  # the same where covariances lack rank
    stored: tuple[int, ...] = (2_000, 20_000, 200_000)  # after which memory is read, multiples of 500 and of 8
    kernel: tuple[int, ...] = (2_048, 10_000)  # vectors of features in either set for the kernel distance
    device: str = "cpu"

    def __post_init__(self) -> None:
        if self.clips < 2 or self.clips % self.batch:
            raise InputError(f"--clips {self.clips}: give a multiple of {self.batch}, the size of a batch")
        check_device(self.device)

    def sets(self, number: int) -> list[Tensor]:
        """Two sets of features `(number, dim)`, of unequal variances about a mean that is not 0, as networks' are."""
        return [gaussian(number, self.dim, seed, self.device) for seed in (1, 2)]


def interleaved(calls: Calls, rounds: int) -> dict[str, list[float]]:
    """Seconds of each call by name, one for each round."""

    def timed(call: Callable[[int], Any], number: int) -> float:
        begun = now()
        call(number)
        return now() - begun

    def now() -> float:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.perf_counter()

    return in_turn({name: partial(timed, call) for name, call in calls.items()}, rounds)


def warmed(calls: Calls, rounds: int) -> dict[str, dict[str, float]]:
    """The spread of the seconds of each call, after one round that does not count."""
    interleaved(calls, 1)
    return {name: spread(own) for name, own in interleaved(calls, rounds).items()}


def drawn_i3d() -> I3D:
    """The I3D with random weights that keep the scale of what passes."""
    network, generator = I3D(), torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.Conv3d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu", generator=generator)
    return network.eval()


def gaussian(number: int, dim: int, seed: int, device: str | torch.device) -> Tensor:
    """Features `(number, dim)`, see `Settings.sets`."""
    draw = torch.randn(number, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return (draw * torch.linspace(2, 0.02, dim, dtype=torch.float64) + 1).to(device)


@torch.no_grad()
def video_distance(settings: Settings, network: nn.Module) -> dict[str, Any]:
    """The Fréchet video distance of uint8 clips with each preset, next to the bare network on prepared clips."""
    device, dim, count = torch.device(settings.device), network.num_features, settings.clips
    network, batches = network.to(device), 2 * count // settings.batch
    size = (batches, settings.batch, 3, *settings.shape)
    videos = torch.randint(256, size, dtype=torch.uint8, generator=torch.Generator().manual_seed(0)).to(device)
    # Without a cache `compute` can be timed again and again.
    metrics = {name: FrechetVideoDistance(network, name, compute_with_cache=False).to(device) for name in PRESETS}
    sums = FrechetVideoDistance(nn.Identity(), num_features=dim).to(device)
    features = gaussian(settings.batch, dim, 0, device).float()
    prepared = prepare(videos[0], PRESETS["stylegan-v"])  # one batch for all rounds: time does not depend on values
    torch.backends.cudnn.conv.fp32_precision = "ieee"  # the arithmetic that the metric asks for
    x, y = (gaussian(count, dim, seed, device) for seed in (1, 2))
    both, cov = (*moments(x), *moments(y)), moments(x)[1]
    calls: Calls = {"network": lambda _: network(prepared), "sums": lambda _: sums.update_features(features, True)}
    ends: Calls = {
        "solve": lambda _: frechet_distance(*both),
        "bias": lambda _: sampling_bias(shrunk(cov, count), count, count),
    }
    for name, metric in metrics.items():
        calls[f"preparation {name}"] = lambda i, name=name: prepare(unit_range(videos[i]), PRESETS[name])
        calls[f"update {name}"] = lambda i, metric=metric: metric.update(videos[i], real=i % 2 == 0)
        ends[f"compute {name}"] = lambda _, metric=metric: metric.compute()
    interleaved(calls, 1)
    for metric in metrics.values():
        metric.reset()  # the clips of the warm-up
    taken = interleaved(calls, batches)
    for name in PRESETS:  # within a round, as the speed of a shared machine drifts from one to the next
        updates = zip(taken[f"update {name}"], taken["network"], strict=True)
        taken[f"added by {name}"] = [update - bare for update, bare in updates]
    with warnings.catch_warnings(action="ignore"):  # that there are too few clips
        seconds = {name: spread(own) for name, own in taken.items()} | warmed(ends, 9)
    real, generated = metric.counts()
    facts = {"real": real, "generated": generated, "batches": batches, "warns of few clips": count <= dim}
    presets = {name: ratios(seconds, batches, name, count <= dim) for name in PRESETS}
    return facts | {"presets": presets, "seconds": seconds}


def ratios(seconds: Mapping[str, Mapping[str, float]], batches: int, preset: str, warns: bool) -> dict[str, float]:
    """The distance's time over that of the bare network: as measured whole, and of its parts, with less scatter."""
    of = {name: value["median"] for name, value in seconds.items()}
    bare = batches * of["network"]
    added = batches * of[f"added by {preset}"] + of[f"compute {preset}"]
    parts = batches * (of[f"preparation {preset}"] + of["sums"]) + of["solve"] + warns * of["bias"]
    return {"bare": bare, "total": bare + added, "ratio": 1 + added / bare, "ratio by parts": 1 + parts / bare}


def solve(settings: Settings) -> dict[str, Any]:
    """Seconds of the Fréchet distance of moments and of features, compared with torchmetrics and one decomposition."""
    x, y = settings.sets(settings.samples)
    both = (*moments(x), *moments(y))
    calls: Calls = {
        "frechet_distance": lambda _: frechet_distance(*both),
        "frechet_distance_from_features": lambda _: frechet_distance_from_features(x, y),
        "torchmetrics": lambda _: torchmetrics_frechet(*both),
        # About the least that a way over covariances can do; numpy's would leave threads that spin into the next turn.
        "one eigvalsh": lambda _: torch.linalg.eigvalsh(both[1]),
    }
    return {"samples": settings.samples, "dim": settings.dim, "seconds": warmed(calls, 9)}


def accuracy(settings: Settings) -> dict[str, Any]:
    """Errors where covariances lack rank, against numpy's nuclear norm of `A Bᵀ` at full size, in double precision."""
    first, second = settings.sets(settings.few)
    result: dict[str, Any] = {"samples": settings.few, "dim": settings.dim}
    for name, (x, y) in {"two sets": (first, second), "a set and itself": (first, first)}.items():
        one, two = x.cpu().numpy(), y.cpu().numpy()
        a, b = ((z - z.mean(0)) / (len(z) - 1) ** 0.5 for z in (one, two))
        shift = np.square(one.mean(0) - two.mean(0)).sum()
        exact = shift + np.square(a).sum() + np.square(b).sum() - 2 * np.linalg.norm(a @ b.T, "nuc")
        both = (*moments(x), *moments(y))
        result[name] = {
            "exact": float(exact),
            "frechet_distance": float(frechet_distance(*both)) - exact,
            "frechet_distance_from_features": float(frechet_distance_from_features(x, y)) - exact,
            "torchmetrics": float(torchmetrics_frechet(*both)) - exact,
        }
    return result


# Whether features are kept, and how many are given at once.
KEEPING = {"sums": (False, 500), "kept features": (True, 500), "kept features in batches of 8": (True, 8)}


def memory(settings: Settings) -> dict[str, Any]:
    """Resident memory of a fresh process by clips taken in, and what each clip adds."""
    result = {}
    for name, (keep, batch) in KEEPING.items():
        arguments = f"{settings.dim}, {settings.stored}, {keep}, {batch}"
        code = f"from benchmarks.metrics import resident; print(*resident({arguments}))"
        root = Path(__file__).resolve().parents[1]
        process = subprocess.run([sys.executable, "-c", code], cwd=root, check=True, stdout=subprocess.PIPE, text=True)
        taken = dict(zip(settings.stored, map(int, process.stdout.split()), strict=True))
        result[name] = {"resident bytes": taken, "bytes per clip": slope(taken)}
    return result


def slope(taken: Mapping[int, int]) -> float:
    """Bytes per clip between the fewest clips and the most."""
    few, many = min(taken), max(taken)
    return (taken[many] - taken[few]) / (many - few)


def resident(dim: int, stored: Sequence[int], keep: bool, batch: int) -> list[int]:
    """Resident bytes of this process (on Linux) after these numbers of vectors of features, given in batches."""
    metric, result = FrechetVideoDistance(nn.Identity(), num_features=dim, keep_features=keep), []
    for number in range(batch, max(stored) + 1, batch):
        metric.update_features(torch.randn(batch, dim), real=True)
        if number in stored:
            lines = Path("/proc/self/status").read_text().splitlines()
            result.append(1024 * int(next(line.split()[1] for line in lines if line.startswith("VmRSS"))))
    return result


def kernel(settings: Settings) -> dict[str, Any]:
    """Seconds of the kernel distance, compared with the bare products of features."""

    def products(x: Tensor, y: Tensor) -> None:
        for one, two in ((x, x), (y, y), (x, y)):
            for rows in one.split(1024):
                rows @ two.T

    def calls(x: Tensor, y: Tensor) -> Calls:
        return {"kernel_distance": lambda _: kernel_distance(x, y), "products": lambda _: products(x, y)}

    return {str(number): {"seconds": warmed(calls(*settings.sets(number)), 3)} for number in settings.kernel}


ROWS = {"solve": solve, "accuracy": accuracy, "memory": memory, "kernel": kernel}


def measure(settings: Settings, network: nn.Module) -> Iterator[tuple[str, dict[str, Any]]]:
    """All rows by name, as plain data."""
    for name, row in ROWS.items():
        yield name, row(settings)
    yield "video distance", video_distance(settings, network)


def main() -> int:
    """The command line."""
    parser = command_line(__doc__)
    add_json(parser, "benchmarks/results/metrics.json")
    parser.add_argument("--clips", type=int, default=Settings.clips, help="real ones, and as many generated ones")
    parser.add_argument("--device", choices=["cpu", "cuda"], default=Settings.device)
    options = parser.parse_args()
    settings = Settings(clips=options.clips, device=options.device)
    result: dict[str, Any] = provenance() | {"settings": vars(settings), "rows": {}}
    for name, row in measure(settings, drawn_i3d()):
        result["rows"][name] = row
        print(name, json.dumps(row, indent=1), flush=True)
    save(json.dumps(result, indent=1) + "\n", options.json)
    return 0


if __name__ == "__main__":
    program(main)
