"""What the trainings of the yardstick's networks share: command line and a resumable loop."""

import argparse
import copy
import datetime
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cmd_lightning.metrics.pretrained import Pretrained
from cmd_lightning.video_io import replaced

Targets = dict[str, Tensor]
"""What is right for each clip of a batch, (B, ...) by the name of the attribute."""

BATCH_SIZE = 32
RATE = 2e-3
AVERAGING = 0.999
"""Weight of the old average in an update."""

FRAMES = 16
"""Of every clip of the yardstick."""


def arguments(network: type[Pretrained]) -> argparse.Namespace:
    """Parse the command line of a training script."""
    parser = argparse.ArgumentParser(description=f"Train {network.__name__}; started again, it goes on.")
    parser.add_argument("--minutes", type=float, default=20, help="of training, from which the steps follow")
    parser.add_argument("--steps", type=int, help="of training, instead of minutes; more than before goes on further")
    parser.add_argument("--out", type=Path, default=Path("zoo/weights") / network.WEIGHTS, help="safetensors file")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=1, help="of the CPU")
    return parser.parse_args()


def fit(
    network: Pretrained,
    draw: Callable[[int], tuple[Tensor, Targets]],
    loss_of: Callable[[Any, Tensor, Targets], Tensor],
    options: argparse.Namespace,
) -> tuple[Pretrained, dict[str, Any]]:
    """Train a network with Adam, the learning rate falling along a cosine to 0 over a fixed number of steps.

    Without a number of steps, the first 50 are timed to tell how many fit into the minutes given. A checkpoint in
    `outputs/`, written every 100 steps, lets a second start go on where the first was stopped.

    Args:
        network: to train.
        draw: makes batch number i: a video float (B, 3, T, H, W) in [0, 1], and its targets.
        loss_of: (network, video, targets) to a scalar.
        options: of the command line, see `arguments`.

    Returns:
        The network with averaged weights, and the record of the training.
    """
    torch.set_num_threads(options.threads)
    kept = Path("outputs/yardstick") / f"{options.out.stem}.ckpt"
    kept.parent.mkdir(parents=True, exist_ok=True)
    # This layout saves a sixth of the time on a CPU.
    network = network.to(options.device, memory_format=torch.channels_last_3d).train()
    average = copy.deepcopy(network)
    adam = torch.optim.Adam(network.parameters(), RATE, betas=(0.9, 0.99))
    state = {"step": 0, "steps": 0, "seconds": 0.0}
    if kept.exists():
        saved = torch.load(kept, map_location=options.device, weights_only=True)
        for part, name in ((network, "network"), (average, "average"), (adam, "adam")):
            part.load_state_dict(saved[name])
        state = saved["state"]
    state["steps"] = options.steps or state["steps"]
    before, since, shown = state["seconds"], time.perf_counter(), []
    while not state["steps"] or state["step"] < state["steps"]:
        step = state["step"]
        share = step / state["steps"] if state["steps"] else 0.0
        adam.param_groups[0]["lr"] = RATE * min(1, (step + 1) / 100) * (1 + math.cos(math.pi * share)) / 2
        video, targets = draw(step)
        targets = {name: target.to(options.device) for name, target in targets.items()}
        video = video.to(options.device, memory_format=torch.channels_last_3d)
        loss = loss_of(network, video, targets)
        adam.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        adam.step()
        keep = min(AVERAGING, (step + 1) / (step + 10))
        with torch.no_grad():
            for mean, weight in zip(average.parameters(), network.parameters(), strict=True):
                mean.lerp_(weight, 1 - keep)
        shown.append(loss.item())
        state |= {"step": step + 1, "seconds": before + time.perf_counter() - since}
        if step + 1 == 50 and not options.steps:
            state["steps"] = max(100, round(options.minutes * 60 / state["seconds"] * 50))
        if (step + 1) % 100 == 0 or step + 1 == state["steps"]:
            mean = sum(shown) / len(shown)
            print(f"step {step + 1}/{state['steps']}, {state['seconds']:.0f} s, loss {mean:.4f}", flush=True)
            shown = []
            parts = {"network": network.state_dict(), "average": average.state_dict(), "adam": adam.state_dict()}
            with replaced(kept) as temporary:
                torch.save(parts | {"state": state}, temporary)
    record = {
        "clips": state["steps"] * BATCH_SIZE,
        "steps": state["steps"],
        "minutes": round(state["seconds"] / 60, 1),
        "device": options.device,
        "torch": torch.__version__,
        "date": datetime.date.today().isoformat(),
    }
    return average.eval(), record
