"""One training step of each of the paper's networks: seconds and memory, compared with its table 8.

    python -m benchmarks.training_steps                    # rerun it until it reports completion
    python -m benchmarks.training_steps --size 512x1024 --json benchmarks/results/training_steps_wide.json

Table 8's protocol: 512x512 pixels, 16 frames, batch 1, mixed precision (bf16 here), fused attention, gradient
checkpointing off. Each network is at its full size, with random weights, on random latents on the device: no
data is read, and neither Stable Diffusion's VAE nor a text encoder nor the frozen autoencoder runs, as with latent
shards. A step is sampling noise, forward, loss, backward and fused AdamW, without EMA; weights and the optimiser's
state are float32. Seconds are the median of `--steps`, each waited for, after as many that warm up; memory is the most
that tensors took in a step, the weights, gradients and optimiser's state included. Checkpointing is that of our
networks and of diffusers, compiling that of the option `compile` of our components: our networks a block at a time,
the U-Net as a whole.

A cell (network, checkpointing, compiled or not) is measured once: the JSON file keeps it, another call continues with
the next one, eager cells first. It needs torch, diffusers with what it imports, and jsonargparse; but no lightning,
open_clip, transformers, webdataset or PyAV.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import product
from statistics import median
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.calls import NETWORKS, TOKENS, Call, call_of, image_latents
from benchmarks.cells import Cell, Rows, check_device, cleared, closing, measure_cells, measuring, stamped, timed
from benchmarks.reported import figures
from cmd_lightning import markdown
from cmd_lightning.commands.files import pixels
from cmd_lightning.diffusion import Diffusion
from cmd_lightning.errors import InputError, program
from cmd_lightning.networks import Condition, LatentSpec
from cmd_lightning.networks.compiling import compile_network
from cmd_lightning.provenance import provenance
from cmd_lightning.zoo.autoencoders.cmd import CMDAutoencoder
from cmd_lightning.zoo.content.unet import unet
from cmd_lightning.zoo.motion.dit import MotionDiT

REPORTED = {
    network: {figure.quantity: figure.value for figure in figures(8, "CMD", component=network.partition(",")[0])}
    for network in ("autoencoder, measured", "content", "motion")
}
"""The paper's table 8: one A100 of 80 GB, 512x512, no checkpointing; the autoencoder by its count of 0.77 TMAC."""
REPORTED_SIZE = (512, 512)
TEXT = 1024  # width of the states of Stable Diffusion 2.1's text encoder, and of ViT-H


@dataclass(frozen=True)
class Settings:
    """What is measured."""

    size: tuple[int, int] = REPORTED_SIZE  # (H, W) of the clips in pixels
    frames: int = 16
    batch: int = 1
    steps: int = 10  # that count; as many warm up
    device: str = "cpu"
    networks: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: NETWORKS)  # their arguments by name
    compiled: tuple[bool, ...] = (False, True)
    checkpointing: tuple[bool, ...] = (False, True)

    def __post_init__(self) -> None:
        if any(side < 1 or side % 64 for side in self.size):
            raise InputError(f"--size {self.size[0]}x{self.size[1]}: give multiples of 64, e.g. 512x1024")
        if self.steps < 1:
            raise InputError(f"--steps {self.steps}: give at least 1")
        check_device(self.device)


class Task(NamedTuple):
    """A network's call, the shapes of one sample's clean latents, and the loss of a batch of those."""

    call: Call
    latents: tuple[tuple[int, ...], ...]
    loss: Callable[..., Tensor]


def task(
    name: str, networks: Mapping[str, Mapping[str, Any]], frames: int, size: Sequence[int], device: torch.device
) -> Task:
    """The training of a network of `networks`, whose names begin with its stage, on clips of `size` (H, W)."""
    video, stage = image_latents((3, frames, *size)), name.partition(",")[0]
    first = next(own for own in networks if own.startswith("autoencoder"))
    with torch.device("meta"):
        spec: LatentSpec = CMDAutoencoder(**networks[first]).latent_spec(video)
    with device:
        if stage == "autoencoder":
            network = CMDAutoencoder(**networks[name])
        else:
            network = (unet if stage == "content" else MotionDiT)(spec, TEXT, **networks[name])
    shapes = {"autoencoder": (video,), "content": (spec.content,), "motion": (spec.motion, spec.content)}[stage]
    call = call_of(stage, network.train(), shapes, TEXT)
    return Task(call, shapes, partial(reconstruction_loss if stage == "autoencoder" else denoising_loss, call))


def reconstruction_loss(call: Call, video: Tensor) -> Tensor:
    """As `VideoAutoencoder.training_step` has it."""
    network = call.network
    content, motion = network.encode(video)
    network.measure_motion(motion, momentum=0.99)
    return F.mse_loss(network.decode(content, motion).float(), video.float())


def denoising_loss(call: Call, clean: Tensor, *given: Tensor) -> Tensor:
    """As `DiffusionStage.training_step` has it (paper equations 7 and 8), with captions of zeros."""
    objective, noise = Diffusion(), torch.randn_like(clean)
    timestep = objective.timesteps(torch.rand(len(clean), device=clean.device))
    caption = Condition(clean.new_zeros(len(clean), TEXT), clean.new_zeros(len(clean), TOKENS, TEXT))
    noisy = objective.corrupt(clean, noise, timestep)
    prediction = call.function(call.network, noisy, timestep, *given, caption)
    return objective.loss(prediction, clean, noise, timestep).mean()


def measure(cell: Cell, settings: Settings) -> Rows:
    """The row of a cell, without seconds where memory does not suffice."""
    torch.manual_seed(0)
    device = torch.device(settings.device)
    with cleared(device):
        work = task(cell["network"], settings.networks, settings.frames, settings.size, device)
        latents = [torch.randn(settings.batch, *shape, device=device) for shape in work.latents]
        network = work.call.network
        found = work.call.count()
        row: dict[str, Any] = {**cell, "parameters": found.parameters}
        row |= {"tmacs_paper": found.products / 1e12, "tmacs": found.macs / 1e12}
        if cell["checkpointing"]:
            network.enable_gradient_checkpointing()
        if cell["compiled"]:
            compile_network(network, options=True)
        optimizer = torch.optim.AdamW(network.parameters(), lr=1e-5, weight_decay=0.0, fused=True)

        def step() -> None:
            with torch.autocast(device.type, torch.bfloat16):
                loss = work.loss(*latents)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

        try:
            for _ in range(settings.steps):
                step()
            taken, memory = timed(step, settings.steps, device)
            row |= {"seconds": median(taken), "rounds": taken, "memory_gb": memory}
        except torch.OutOfMemoryError:
            row |= {"seconds": None, "memory_gb": None}
        return [stamped(row)]


def cells(settings: Settings) -> list[Cell]:
    """All that is measured; what needs no compiler first."""
    return [
        {"network": network, "checkpointing": checkpointing, "compiled": compiled}
        for compiled, checkpointing, network in product(settings.compiled, settings.checkpointing, settings.networks)
    ]


def run(settings: Settings, *kept: Any) -> dict[str, Any]:
    """Measures the cells; path and minutes as for `measure_cells`."""
    record = provenance() | {"settings": asdict(settings), "protocol": __doc__, "reported": REPORTED}
    return measure_cells(cells(settings), lambda cell: measure(cell, settings), record, *kept)


def table(result: dict[str, Any]) -> str:
    """The results as a Markdown table, with the paper's figures in separate columns."""
    head = ("network", "TMAC", "paper", "checkpointing", "compiled", "seconds", "paper", "memory in GB", "paper")
    lines = []
    for row in result["rows"]:
        same = tuple(result["settings"]["size"]) == REPORTED_SIZE and not row["checkpointing"]
        paper = result["reported"].get(row["network"], {}) if same else {}
        yes = ["yes" if row[key] else "no" for key in ("checkpointing", "compiled")]
        seconds = "did not fit" if row["seconds"] is None else f"{row['seconds']:.3f}"
        memory = "" if row["memory_gb"] is None else f"{row['memory_gb']:.2f}"
        fields = (row["network"], f"{row['tmacs_paper']:.3f}", paper.get("tmacs_paper"), *yes)
        lines.append((*fields, seconds, paper.get("seconds"), memory, paper.get("memory_gb")))
    return markdown.table(head, lines)


def main() -> int:
    """The command line."""
    parser = measuring(__doc__, "benchmarks/results/training_steps.json")
    parser.add_argument("--size", default="512x512", help="of the clips in pixels (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=Settings.steps, help="that count (default: %(default)s)")
    options = parser.parse_args()
    settings = Settings(size=pixels(options.size), steps=options.steps, device=options.device)
    result = run(settings, options.json, options.minutes)
    print(table(result))
    print(closing(cells(settings), result["rows"]))
    return 0


if __name__ == "__main__":
    program(main)
