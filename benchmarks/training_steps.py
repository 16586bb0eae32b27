"""One training step of each of the paper's networks: seconds and memory, beside what its table 8 reports.

    python -m benchmarks.training_steps                    # again until it says that it is done
    python -m benchmarks.training_steps --size 512x1024 --json benchmarks/results/training_steps_wide.json

Table 8's protocol: 512x512 pixels, 16 frames, batch 1, mixed precision (bf16 here), fused attention, gradient
checkpointing off. Each network is at its full size, of random weights, on random latents that lie on the device: no
data is read, and neither Stable Diffusion's VAE nor a text encoder nor the frozen autoencoder runs, as with latent
shards. A step is draws of noise, forward, loss, backward and fused AdamW, without EMA; weights and the optimiser's
state are float32. Seconds are the median of `--steps`, each waited for, after as many that warm up; memory is the most
that tensors took in a step, the weights, gradients and optimiser's state included. Checkpointing is that of our
networks and of diffusers, compiling that of the option `compile` of our components: our networks a block at a time,
the U-Net as a whole.

A cell (network, checkpointing, compiled or not) is measured once: the JSON file keeps it, another call goes on with
the next one, eager cells first. Needed beside torch are diffusers, with what it imports, and jsonargparse; take them
along as wheels to a machine without a package index. lightning, open_clip, transformers, webdataset and PyAV are not
needed.
"""

from __future__ import annotations

import argparse
import gc
import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks.counting import count
from benchmarks.training_tasks import NETWORKS, task
from cmd_lightning.commands.files import pixels
from cmd_lightning.errors import InputError, program
from cmd_lightning.networks.compiling import compile_network
from cmd_lightning.provenance import provenance
from cmd_lightning.video_io import replaced

REPORTED = {
    "autoencoder, measured": {"tmacs": 0.77, "seconds": 0.109, "gigabytes": 8.93},
    "content": {"tmacs": 0.34, "seconds": 0.151, "gigabytes": 21.5},
    "motion": {"tmacs": 0.14, "seconds": 0.100, "gigabytes": 18.7},
}
"""The paper's table 8: one A100 of 80 GB, 512x512, no checkpointing; the autoencoder by its count of 0.77 TMAC."""
REPORTED_SIZE = (512, 512)
MINUTES = 8.0
"""After which no other cell begins."""


@dataclass(frozen=True)
class Settings:
    """What is measured.

    Attributes:
        size: (H, W) of the clips in pixels.
        frames: of a clip.
        batch: clips in a step.
        steps: that count; as many warm up.
        device: "cuda" or "cpu".
        networks: arguments of the networks by name; by default the paper's.
        compiled: whether with torch.compile, the choices to measure.
        checkpointing: of gradients, likewise.
    """

    size: tuple[int, int] = REPORTED_SIZE
    frames: int = 16
    batch: int = 1
    steps: int = 10
    device: str = "cpu"
    networks: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: NETWORKS)
    compiled: tuple[bool, ...] = (False, True)
    checkpointing: tuple[bool, ...] = (False, True)

    def __post_init__(self) -> None:
        if any(side < 1 or side % 64 for side in self.size):
            raise InputError(f"--size {self.size[0]}x{self.size[1]}: give multiples of 64, e.g. 512x1024")
        if self.steps < 1:
            raise InputError(f"--steps {self.steps}: give at least 1")
        if self.device == "cuda" and not torch.cuda.is_available():
            raise InputError("--device cuda: torch finds no such device; give cpu")


def measure(name: str, checkpointing: bool, compiled: bool, settings: Settings) -> dict[str, Any]:
    """A cell: parameters, MACs of a forward pass, and seconds and memory of training steps.

    Memory that does not suffice is a result too: {"failed": what torch says of it}.
    """
    torch.manual_seed(0)
    device = torch.device(settings.device)
    with cleared(device):
        work = task(name, settings.networks, settings.frames, settings.size, device)
        latents = [torch.randn(settings.batch, *shape, device=device) for shape in work.latents]
        network = work.call.network
        found = count(network, *work.call.inputs, call=work.call.function)
        row: dict[str, Any] = {
            "parameters": found.parameters,
            "tmacs_as_paper_counts": found.products / 1e12,
            "tmacs": found.macs / 1e12,
        }
        if checkpointing:
            network.enable_gradient_checkpointing()
        if compiled:
            compile_network(network, options=True)
        optimizer = torch.optim.AdamW(network.parameters(), lr=1e-5, weight_decay=0.0, fused=True)

        def step() -> None:
            with torch.autocast(device.type, torch.bfloat16):
                loss = work.loss(*latents)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

        try:
            row |= timed(step, settings.steps, device)
        except torch.OutOfMemoryError as error:
            row["failed"] = str(error).splitlines()[0]
        return row


def timed(step: Callable[[], None], number: int, device: torch.device) -> dict[str, Any]:
    """Seconds of each of `number` steps after as many others, their median, and the most memory of a step."""
    for _ in range(number):
        step()
    taken = []
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    for _ in range(number):
        begun = time.perf_counter()
        step()
        if device.type == "cuda":
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - begun)
    memory = {"gigabytes": torch.cuda.max_memory_allocated() / 1e9} if device.type == "cuda" else {}
    return {"seconds": median(taken), "rounds": taken} | memory


@contextmanager
def cleared(device: torch.device) -> Iterator[None]:
    """Leaves no memory and no compiled code behind."""
    try:
        yield
    finally:
        torch._dynamo.reset()
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()


def cells(settings: Settings) -> list[tuple[str, bool, bool]]:
    """Network, checkpointing and compiled or not, of all that is measured; what needs no compiler first."""
    return [(n, c, x) for x in settings.compiled for c in settings.checkpointing for n in settings.networks]


def title(name: str, checkpointing: bool, compiled: bool) -> str:
    """The name of a cell."""
    return f"{name}; {'checkpointing' if checkpointing else 'no checkpointing'}; {'compiled' if compiled else 'eager'}"


def run(settings: Settings, path: Path | None = None, minutes: float = MINUTES) -> dict[str, Any]:
    """Measures the cells that `path` does not hold yet, as long as there is time, and keeps each one there.

    Args:
        settings: what is measured.
        path: JSON file of results, of these settings and this machine.
        minutes: after which no other cell begins.

    Raises:
        InputError: the file's results are of other settings or another device.
    """
    begun = time.monotonic()
    record = provenance() | {"settings": plain(asdict(settings)), "protocol": __doc__, "reported": REPORTED}
    result = json.loads(path.read_text()) if path and path.exists() else record | {"rows": {}}
    for key in ("settings", "hardware", "versions"):
        if result[key] != record[key]:
            raise InputError(f"--json {path}: its results are of other {key}; give another file")
    for cell in cells(settings):
        if title(*cell) in result["rows"] or time.monotonic() - begun > 60 * minutes:
            continue
        row = measure(*cell, settings) | {key: record[key] for key in ("commit", "date")}
        result["rows"][title(*cell)] = row
        print(title(*cell), f"{row['seconds']:.3f} s" if "seconds" in row else row["failed"], flush=True)
        if path:
            path.parent.mkdir(parents=True, exist_ok=True)
            with replaced(path) as temporary:
                temporary.write_text(json.dumps(result, indent=1) + "\n")
    return result


def plain(value: Any) -> Any:
    """What JSON makes of a value."""
    return json.loads(json.dumps(value))


def table(result: dict[str, Any]) -> str:
    """The results as a Markdown table, what the paper reports in columns of their own."""
    head = ("network", "TMAC", "paper", "checkpointing", "compiled", "seconds", "paper", "memory in GB", "paper")
    lines = [f"| {' | '.join(head)} |", "| --- " * len(head) + "|"]
    for key, row in result["rows"].items():
        name, checkpointing, compiled = key.split("; ")
        same = tuple(result["settings"]["size"]) == REPORTED_SIZE and checkpointing == "no checkpointing"
        told = result["reported"].get(name, {}) if same else {}
        seconds = f"{row['seconds']:.3f}" if "seconds" in row else "failed"
        memory = f"{row['gigabytes']:.2f}" if "gigabytes" in row else ""
        yes = {"checkpointing": "yes", "compiled": "yes"}
        fields = (name, f"{row['tmacs_as_paper_counts']:.3f}", told.get("tmacs", ""), yes.get(checkpointing, "no"))
        fields += (yes.get(compiled, "no"), seconds, told.get("seconds", ""), memory, told.get("gigabytes", ""))
        lines.append(f"| {' | '.join(map(str, fields))} |")
    return "\n".join(lines)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--size", default="512x512", help="of the clips in pixels (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=Settings.steps, help="that count (default: %(default)s)")
    parser.add_argument(
        "--minutes", type=float, default=MINUTES, help="then no other cell begins (default: %(default)s)"
    )
    parser.add_argument("--json", type=Path, default=Path("benchmarks/results/training_steps.json"), help="results")
    options = parser.parse_args()
    settings = Settings(size=pixels(options.size), steps=options.steps, device=options.device)
    result = run(settings, options.json, options.minutes)
    print(table(result))
    left = [title(*cell) for cell in cells(settings) if title(*cell) not in result["rows"]]
    print(f"left for another call: {', '.join(left)}" if left else "done")
    return 0


if __name__ == "__main__":
    program(main)
