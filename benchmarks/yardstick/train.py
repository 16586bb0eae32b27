"""What the trainings of the yardstick's networks share: a resumable loop, and ways to spoil clips."""

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
from torch.nn import functional as F

from cmd_lightning.metrics.video_convnet import Pretrained
from cmd_lightning.video_io import VideoReader, mp4_bytes, replaced

Targets = dict[str, Tensor]

BATCH_SIZE = 32
RATE = 2e-3
AVERAGING = 0.999
FRAMES = 16


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
    network: Pretrained, draw: Callable[[int], tuple[Tensor, Targets]], loss_of: Callable[..., Tensor], options: Any
) -> tuple[Pretrained, dict[str, Any]]:
    """Train a network with Adam, the learning rate falling along a cosine to 0 over a fixed number of steps.

    Without a number of steps, the first 50 are timed to tell how many fit into the minutes given. A checkpoint in
    `outputs/`, written every 100 steps, lets a second start go on where the first was stopped.

    Args:
        network: to train.
        draw: makes batch number i: a video float (B, 3, T, H, W) in [0, 1], and class numbers (B,) by name.
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


def blur(video: Tensor, sigma: Tensor) -> Tensor:
    """Gaussian blur over space; `sigma` (B,) in pixels, 0 leaves a clip as it is."""
    place = torch.arange(video.shape[-1], dtype=torch.float32)
    apart = (place[:, None] - place).square()
    rows = torch.exp(-apart / (2 * sigma.clamp(min=1e-3).square())[:, None, None])
    rows = (rows / rows.sum(dim=2, keepdim=True))[:, None, None]
    return rows @ video @ rows.transpose(-1, -2)


def compressed(clip: Tensor, crf: int) -> Tensor:
    """A clip uint8 (3, T, H, W) through H.264."""
    return VideoReader(mp4_bytes(clip, 8.0, crf=crf)).read()


def spoil_mildly(video: Tensor, chance: torch.Generator) -> Tensor:
    """What codecs and autoencoders do to clips, to the first half of a batch: none of it changes what a clip shows.

    Soft edges, coarse chroma, noise, shifted colours and contrast, a share of the mean over time.
    """
    clean, video = video[len(video) // 2 :], video[: len(video) // 2]

    def some(low: float, high: float, share: float) -> Tensor:
        """Of each clip a strength, or 0."""
        drawn, values = torch.rand(2, len(video), generator=chance)
        return torch.where(drawn < share, low + (high - low) * values, torch.zeros(()))

    def over_clips(values: Tensor) -> Tensor:
        return values.view(-1, 1, 1, 1, 1)

    video = blur(video, some(0.2, 0.8, 0.5))
    grey = video.mean(dim=1, keepdim=True)
    chroma = F.interpolate(F.avg_pool3d(video - grey, (1, 2, 2)), scale_factor=(1, 2, 2))
    video = torch.lerp(video, grey + chroma, over_clips(some(0.5, 1.0, 0.4)))
    video = torch.lerp(video, video.mean(dim=2, keepdim=True), over_clips(some(0.0, 0.15, 0.3)))
    tint = 1 + 0.04 * (2 * torch.rand(len(video), 3, 1, 1, 1, generator=chance) - 1)
    contrast = 1 + over_clips(some(-0.15, 0.1, 0.4))
    noise = torch.randn(video.shape, generator=chance) * over_clips(some(0.0, 0.05, 0.5))
    return torch.cat([(video * tint * contrast + noise).clamp(0, 1), clean])


def shuffled(frames: int, chance: torch.Generator) -> Tensor:
    """A random order of frames that is far from the true one and its reverse: Kendall's tau within 0.35."""
    first, second = torch.triu_indices(frames, frames, 1)
    while True:
        order = torch.randperm(frames, generator=chance)
        if (order[second] - order[first]).sign().float().mean().abs() < 0.35:
            return order
