"""What the trainings of the yardstick's networks share: command line and a resumable loop."""

import argparse
import copy
import datetime
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from cmd_lightning.atomic_files import replaced
from cmd_lightning.zoo import WEIGHTS

Network = TypeVar("Network", bound=nn.Module)
Targets = dict[str, Tensor]
"""What is right for each clip of a batch, (B, ...) by the name of the attribute."""

AVERAGING = 0.999
"""Weight of the old average in an update."""

FRAMES = 16
"""Of every clip of the yardstick."""


def arguments(description: str, weights: str, steps: int, rate: float = 2e-3) -> argparse.Namespace:
    """Parse the command line of a training script.

    Args:
        description: of the script.
        weights: name of the file that it writes.
        steps: of the whole training, by default.
        rate: of learning, at its peak, by default.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60, help="longest time of this call; the next one goes on")
    parser.add_argument("--steps", type=int, default=steps, help="of the whole training")
    parser.add_argument("--rate", type=float, default=rate, help="of learning, at its peak")
    parser.add_argument("--out", type=Path, default=WEIGHTS / weights, help="safetensors file")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="to train on")
    parser.add_argument("--threads", type=int, default=1, help="of the CPU")
    return parser.parse_args()


def fit(
    network: Network,
    draw: Callable[[int], tuple[Tensor, Any]],
    loss_of: Callable[[Network, Tensor, Any], Tensor],
    options: argparse.Namespace,
) -> tuple[Network, dict[str, Any]]:
    """Train a network with Adam, the learning rate falling along a cosine to 0 over a fixed number of steps.

    A checkpoint in `outputs/yardstick`, written every 100 steps and when the minutes are over, lets the next call go on
    where this one ends, or write the weights again if all steps are done. A call that does not come to the last step
    ends the program here.

    Args:
        network: to train.
        draw: makes batch number i: clips or pictures (B, ...) of floats in [0, 1], and what is right for them.
        loss_of: (network, clips, what is right for them) to a scalar.
        options: of the command line, see `arguments`.

    Returns:
        The network with averaged weights on the CPU, and the record of the training.
    """
    torch.set_num_threads(options.threads)
    kept = Path("outputs/yardstick") / f"{options.out.stem}.ckpt"
    kept.parent.mkdir(parents=True, exist_ok=True)
    network = network.to(options.device).train().requires_grad_(True)
    average = copy.deepcopy(network)
    adam = torch.optim.Adam(network.parameters(), options.rate, betas=(0.9, 0.99))
    parts, step, seconds, clips = {"network": network, "average": average, "adam": adam}, 0, 0.0, 0
    whole = {"--steps": options.steps, "--rate": options.rate, "--out": str(options.out)}
    if kept.exists():
        saved = torch.load(kept, map_location="cpu", weights_only=True)
        if saved["whole"] != whole:
            sys.exit(f"{kept}: began with {saved['whole']}, not {whole}; give the same, or delete it to train anew")
        for name, part in parts.items():
            part.load_state_dict(saved[name])
        step, seconds, clips = saved["step"], saved["seconds"], saved["clips"]
    before, since, shown = seconds, time.perf_counter(), []
    while step < options.steps:
        rate = options.rate * min(1, (step + 1) / 100) * (1 + math.cos(math.pi * step / options.steps)) / 2
        adam.param_groups[0]["lr"] = rate
        batch, targets = draw(step)
        loss = loss_of(network, batch.to(options.device), targets)
        adam.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        adam.step()
        keep = min(AVERAGING, (step + 1) / (step + 10))
        with torch.no_grad():
            for mean, weight in zip(average.parameters(), network.parameters(), strict=True):
                mean.lerp_(weight, 1 - keep)
        shown.append(loss.item())
        step, clips, seconds = step + 1, clips + len(batch), before + time.perf_counter() - since
        late = seconds - before > 60 * options.minutes
        if step % 100 == 0 or step == options.steps or late:
            mean = sum(shown) / len(shown)
            print(f"step {step}/{options.steps}, {seconds:.0f} s, loss {mean:.4f}", flush=True)
            shown = []
            states = {name: part.state_dict() for name, part in parts.items()}
            with replaced(kept) as temporary:
                torch.save(states | {"whole": whole, "step": step, "seconds": seconds, "clips": clips}, temporary)
        if late and step < options.steps:
            print("The time is up; the same command goes on from here.")
            sys.exit()
    record = {
        "clips": clips,
        "steps": step,
        "minutes": round(seconds / 60, 1),
        "device": options.device,
        "torch": torch.__version__,
        "date": datetime.date.today().isoformat(),
    }
    return average.eval().cpu(), record
