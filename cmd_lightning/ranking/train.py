"""One training of a motion model by the protocol: component and Trainer as usual, on cached latents."""

from __future__ import annotations

import logging
import math
import os
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from lightning import Trainer
from lightning.pytorch import Callback, LightningModule
from torch.optim import Adam
from torch.utils.data import DataLoader, IterableDataset

from cmd_lightning.callbacks.ema import EMA
from cmd_lightning.components.motion import MotionDiffusion
from cmd_lightning.components.schedules import WarmupSchedule
from cmd_lightning.data.plan import stable_hash
from cmd_lightning.diffusion import Diffusion
from cmd_lightning.errors import InputError
from cmd_lightning.networks import LatentSpec, MotionModel
from cmd_lightning.ranking.latents import Bench
from cmd_lightning.ranking.protocol import Protocol

REPORTS = 4
"""Progress lines per training."""


@dataclass(eq=False)
class Order(IterableDataset):
    """Batches of cached latents like those of latent shards, in an order that depends on seed and epoch."""

    bench: Bench
    protocol: Protocol
    seed: int
    made_by: Mapping[str, str | None]

    def __len__(self) -> int:
        return self.protocol.samples // self.protocol.batch_size

    def __iter__(self) -> Iterator[dict[str, Any]]:
        tensors, captions, batch = self.bench.tensors, self.bench.captions["train"], self.protocol.batch_size
        epoch, left = -1, torch.empty(0, dtype=torch.long)
        for _ in range(len(self)):
            if len(left) < batch:
                epoch += 1
                generator = torch.Generator().manual_seed(stable_hash("order", self.seed, epoch))
                left = torch.randperm(len(captions), generator=generator)
            rows, left = left[:batch], left[batch:]
            chosen = rows.tolist()
            yield {
                "content": tensors["train/content"][rows],
                "motion": tensors["train/motion"][rows],
                "caption": [captions[row] for row in chosen],
                "key": [f"{row:09d}" for row in chosen],
                "made_by": [self.made_by],  # one for all samples: the Trainer inspects each entry
                "epoch": epoch,
            }


class Watch(Callback):
    """Keeps the losses, and reports progress a few times during training."""

    def __init__(self, steps: int, tell: Callable[[str], None]) -> None:
        self.steps, self.tell = steps, tell
        self.losses: list[float] = []
        self.begun = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Records the loss of a step."""
        self.losses.append(float(outputs["loss"]))
        done = len(self.losses)
        if done % max(1, self.steps // REPORTS) == 0 and done < self.steps:
            left = (time.perf_counter() - self.begun) / done * (self.steps - done)
            self.tell(f"step {done} of {self.steps}, loss {self.recent:.3f}, {left:.0f} s left")

    @property
    def recent(self) -> float:
        """Mean loss of the last tenth of the steps."""
        recent = self.losses[-max(1, self.steps // 10) :]
        return sum(recent) / len(recent)


def train(
    build: Callable[[LatentSpec, int], MotionModel],
    bench: Bench,
    protocol: Protocol,
    seed: int,
    folder: Path,
    tell: Callable[[str], None],
) -> tuple[MotionModel, dict[str, float]]:
    """Trains a motion model.

    Args:
        build: Builds the model from latent shapes and channels of the condition, such as `Candidate.build`.
        bench: The clips and the frozen parts.
        protocol: The settings of the training.
        seed: Seed of weights, order of the clips, and noise; order and noise are the same for all models.
        folder: Folder for the Trainer's list of skipped steps, if there are any.
        tell: Called with lines of progress.

    Returns:
        The model with averaged weights, in evaluation mode, and its "loss", the mean of the last tenth of the steps.

    Raises:
        InputError: Loss or gradients became NaN or infinite.
    """
    steps = protocol.samples // protocol.batch_size
    watch, ema = Watch(steps, tell), EMA(protocol.ema)
    logger = logging.getLogger("lightning.pytorch")
    with seeded(seed), warnings.catch_warnings(action="ignore"), ExitStack() as stack:
        stack.callback(logger.setLevel, logger.level)
        logger.setLevel(logging.ERROR)  # hides messages on devices, loggers and workers
        component = MotionDiffusion(
            build,
            bench.pipeline.autoencoder,
            condition=bench.pipeline.motion_text_encoder,
            condition_dropout=protocol.condition_dropout,
            objective=objective(),
            video_shape=bench.pipeline.config["video_shape"],
            optimizer=lambda weights: Adam(weights, lr=protocol.learning_rate, betas=(0.9, 0.99), fused=True),
            schedule=lambda optimizer: WarmupSchedule(
                optimizer, warmup_steps=protocol.warmup_steps, total_steps=steps, decay="cosine"
            ),
        )
        order = Order(bench, protocol, seed, component.origin())
        trainer = Trainer(
            accelerator="cpu",
            devices=1,
            max_steps=steps,
            max_epochs=1,
            gradient_clip_val=1.0,
            callbacks=[watch, ema],
            default_root_dir=folder,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        network = component.network
        assert isinstance(network, MotionModel)
        fault = InputError(
            f"model {type(network).__name__}: loss or gradients became NaN or infinite in training with seed "
            f"{seed}; look for sums without bound and divisions by zero in its forward"
        )
        try:
            trainer.fit(component, DataLoader(order, batch_size=None))
        except InputError as error:  # too many steps in a row were skipped
            raise fault from error
        if not math.isfinite(watch.recent):
            raise fault
        ema.swap_in(component)
    return network.eval(), {"loss": watch.recent}


def objective() -> Diffusion:
    """The objective of all ranked models, as in shapes32paper."""
    return Diffusion(prediction="v_prediction", beta_schedule="linear")


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seeds torch and the components within the block."""
    with torch.random.fork_rng(devices=[]), patch.dict(os.environ, PL_GLOBAL_SEED=str(seed)):
        torch.manual_seed(seed)
        yield
