"""Seconds from prompt to pixels that each measure saves, added one by one, with `CMDPipeline`; for a GPU.

    python -m benchmarks.sampling_gains                          # configs/webvid_sd21 at 512x1024, random weights
    python -m benchmarks.sampling_gains --scale fifth --size 64x64 --steps 2 --device cpu --json outputs/gains.json

Rows are in the order of `MEASURES`, each with those before it: plain, bfloat16, compiled with CUDA graphs, DPM++
in 15 steps, the tiny frame decoder. Every row has the seconds of each part: content, motion, autoencoder, frames. No
text is encoded: its vectors are random. A row is a cell: the next call continues.
"""

from collections.abc import Mapping
from itertools import pairwise
from statistics import median
from typing import Any

import torch
from diffusers import AutoencoderTiny

from benchmarks.cells import Cell, Rows, check_device, cleared, clock, closing, measure_cells, measuring
from benchmarks.efficiency.scales import SCALES
from benchmarks.efficiency.systems import tiny_vae, vae
from cmd_lightning.commands.files import pixels
from cmd_lightning.conditioning import ConditionEncoder
from cmd_lightning.diffusion import Diffusion
from cmd_lightning.errors import program
from cmd_lightning.networks import Condition
from cmd_lightning.pipeline import CMDPipeline
from cmd_lightning.provenance import provenance

MEASURES = ("as it is", "bfloat16", "compiled", "dpm++", "tiny frame decoder")
FEW = 15  # steps of `dpm++`
DIVISOR = {"paper": 1, "fifth": 4}  # of the channels of the frame decoders
ROUNDS = 3  # of which the median counts, after one more


class DrawnText(ConditionEncoder):
    """Vectors in the place of a text encoder's."""

    field = "caption"

    def __init__(self, dim: int, tokens: int = 77) -> None:
        super().__init__()
        self.dim, self.tokens = dim, tokens
        self.table = torch.nn.Parameter(torch.randn(tokens, dim))

    def forward(self, values: list[str]) -> Condition:
        tokens = self.table.expand(len(values), -1, -1)
        return Condition(tokens.mean(1), tokens)

    def null(self, count: int) -> Condition:
        return self([""] * count)


def pipeline_of(scale: str, size: tuple[int, int]) -> tuple[CMDPipeline, AutoencoderTiny]:
    """The whole model at `size` pixels, and a tiny frame decoder."""
    system = SCALES[scale]["CMD"]
    shape = system.video(size)
    autoencoder = system.autoencoder()
    spec = autoencoder.latent_spec(shape)
    pipeline = CMDPipeline(
        autoencoder,
        unet=system.denoisers["content"](spec, system.width),
        scheduler=Diffusion().scheduler(),
        text_encoder=DrawnText(system.width),
        motion_model=system.denoisers["motion"](spec, system.width),
        motion_scheduler=Diffusion().scheduler(),
        motion_text_encoder=DrawnText(system.width),
        vae=vae(DIVISOR[scale]),
        video_shape=shape,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline, tiny_vae(DIVISOR[scale]).eval()


def measure(cell: Cell, settings: Mapping[str, Any]) -> Rows:
    """The seconds of one row."""
    device = torch.device(settings["device"])
    taken = MEASURES[: MEASURES.index(cell["measure"]) + 1]
    with cleared(device):
        torch.manual_seed(0)
        with device:
            pipeline, tiny = pipeline_of(settings["scale"], pixels(settings["size"]))
        dtype = torch.bfloat16 if "bfloat16" in taken else torch.float32
        for part in (tiny, *pipeline.components.values()):
            if isinstance(part, torch.nn.Module):
                torch.nn.Module.to(part, dtype).eval()  # diffusers' own warns of nothing
        if "dpm++" in taken:
            pipeline.use_solver("dpm++")
        if "tiny frame decoder" in taken:
            pipeline.use_frame_decoder(tiny)
        if "compiled" in taken:
            pipeline.compile_networks()
        steps = min(FEW, settings["steps"]) if "dpm++" in taken else settings["steps"]
        rounds = [_round(pipeline, steps, settings["guidance"], device) for _ in range(ROUNDS + 1)][1:]
    parts = {name: median(found[name] for found in rounds) for name in rounds[0]}
    return [{"steps": steps, "seconds": sum(parts.values()), **parts}]


@torch.no_grad()
def _round(pipeline: CMDPipeline, steps: int, guidance: float, device: torch.device) -> dict[str, float]:
    dtype, times = pipeline.autoencoder.dtype, [clock(device)]
    content = pipeline.generate_content(["a"], [0], steps, guidance)
    times.append(clock(device))
    motion = pipeline.generate_motion(content, ["a"], [0], steps, guidance)
    times.append(clock(device))
    latent = pipeline.autoencoder.decode(content.to(dtype), motion.to(dtype))
    times.append(clock(device))
    pipeline.frames.decode(latent)
    times.append(clock(device))
    names = ("content", "motion", "autoencoder", "frames")
    return {name: end - begun for name, (begun, end) in zip(names, pairwise(times), strict=True)}


def main() -> int:
    """The command line."""
    parser = measuring(__doc__, "benchmarks/results/sampling_gains.json")
    parser.add_argument("--scale", choices=tuple(DIVISOR), default="paper", help="of the networks (default: paper)")
    parser.add_argument("--size", default="512x1024", help="pixels (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=50, help="of a stage (default: %(default)s)")
    parser.add_argument("--guidance", type=float, default=1.0, help="scale; 1 disables it (default: %(default)s)")
    options = parser.parse_args()
    check_device(options.device)
    settings = {name: getattr(options, name) for name in ("scale", "size", "steps", "guidance", "device")}
    cells = [{"measure": name} for name in MEASURES]
    record = {"settings": settings} | provenance()
    result = measure_cells(cells, lambda cell: measure(cell, settings), record, options.json, options.minutes)
    print(closing(cells, result["rows"]))
    return 0


if __name__ == "__main__":
    program(main)
