"""The processes of `test_distributed`.

Importing it loads all libraries of a training run, so that forks of this process start at once.
"""

import os
import traceback
from pathlib import Path

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.strategies import ModelParallelStrategy
from small_fits import CASES, Clips, adam, component, fit, mixed, together
from streams import speak_into
from torch.utils.data import DataLoader

from cmd_lightning.callbacks import EMA, LastCheckpoint, VideoLogger
from cmd_lightning.components import draws
from cmd_lightning.networks.contracts import mean_and_variance

RESUMED = ("motion DiT, captions", "U-Net, LoRA")


def gradients(folder, strategy, rank=0, world=1, cases=tuple(CASES), **options):
    """Writes what the first two steps of each case compute."""
    model = {case: component(case, **options) for case in cases}
    steps = {case: fit(model[case], folder, strategy, rank, world, limit_val_batches=0) for case in cases}
    if rank == 0:
        torch.save(steps, Path(folder, "steps.pt"))


def lightnings_own(folder, strategy, rank, world):
    """As `gradients`, with Lightning's own strategy."""
    strategy = ModelParallelStrategy(world, 1, save_distributed_checkpoint=False)
    gradients(folder, strategy, rank, world, ["autoencoder"])


def draws_by_rank(folder, strategy, rank, world):
    """As `gradients`, with draws that depend on the process, as is usual elsewhere."""
    seed_of = draws.seed_of
    draws.seed_of = lambda *position: seed_of(rank, *position)
    gradients(folder, strategy, rank, world, ["motion DiT, classes"])
    draws.seed_of = seed_of


def resumed(folder, strategy, rank=0, world=1, half=None, steps=4, cases=RESUMED):
    """Trains for four steps, for two, or from a checkpoint of these: averaged, clipped, validated, with images."""
    for case in cases:
        place = Path(folder, case)
        callbacks = [EMA(0.5), LastCheckpoint(str(place)), *([] if "LoRA" in case else [VideoLogger(1)])]
        start = half and Path(half, case, "last.ckpt")
        # Two batches are an epoch: a plain DataLoader starts from the beginning when training resumes.
        more = {"length": 2, "gradient_clip_val": 0.5}
        fit(component(case, adam, pixels=True), place, strategy, rank, world, steps, start, callbacks, **more)


class Spoil(Callback):
    """Makes the first loss of one process NaN."""

    def __init__(self, rank):
        self.rank = rank

    def on_train_start(self, trainer, pl_module):
        step = pl_module.training_step

        def training_step(batch, batch_idx):
            spoiled = batch_idx == 0 and trainer.global_rank == self.rank
            return step(batch, batch_idx) * (float("nan") if spoiled else 1.0)

        pl_module.training_step = training_step


def spoiled(folder, strategy, rank=0, world=1):
    """Writes what the second of two steps computes, when the first has been skipped by all for the sake of the last."""
    spoil = Spoil(world - 1)
    steps = fit(component("motion DiT, classes", adam), folder, strategy, rank, world, callbacks=[EMA(), spoil])
    if rank == 0:
        torch.save(steps[1], Path(folder, "step.pt"))


def half_precision(folder, strategy, rank, world, precision):
    """Writes what two steps compute with autocast and, for 16 bits, a gradient scaler."""
    model = component("motion DiT, classes")
    steps = fit(model, folder, strategy, rank, world, plugins=[mixed(precision)], gradient_clip_val=1.0)
    if rank == 0:
        torch.save(steps, Path(folder, "steps.pt"))


def moments(folder, strategy, rank, world):
    """Writes mean and variance of values of which each process holds another number."""
    values = torch.randn(10, 3, 4, generator=torch.Generator().manual_seed(1))
    own = values[:3] if rank == 0 else values[3:] + 5  # far apart in their means
    found = mean_and_variance(own, dim=(0, 2))
    torch.save([found, torch.cat([values[:3], values[3:] + 5])], Path(folder, f"{rank}.pt"))


def validated(folder, strategy, rank=0, world=1):
    """Writes the validation figures of three clips, of which the first of two processes has two."""
    clips = [Clips(1)[number] for number in range(3)]
    quiet = {
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
    }
    trainer = Trainer(accelerator="cpu", devices=world, strategy=strategy, use_distributed_sampler=False, **quiet)
    data = DataLoader(clips[rank::world], batch_size=1, collate_fn=together)
    trainer.validate(component("autoencoder", pixels=True), data, verbose=False)
    torch.save(dict(trainer.callback_metrics), Path(folder, f"validated-{rank}.pt"))


def refused(folder, strategy, rank, world, checkpoint):
    """Writes what is said of wrong strategies and checkpoints."""
    damaged = Path(folder, "damaged.ckpt")
    damaged.write_bytes(Path(checkpoint).read_bytes()[:-200])
    wrong = {
        "split layers": (ModelParallelStrategy(), None),
        "in pieces": (ModelParallelStrategy(world, 1), None),
        "another stage": ("sharded", checkpoint),
        "damaged": ("sharded", damaged),
    }
    message = {}
    for name, (kind, resume) in wrong.items():
        try:
            fit(component("content DiT, classes"), folder, kind, rank, world, resume=resume)
        except Exception as error:
            message[name] = f"{type(error).__name__}: {error}"
    torch.save(message, Path(folder, f"{rank}.pt"))


def live(rank, world, folder, jobs):
    """Does jobs in one of several processes; what goes wrong is in a file.

    Args:
        rank: Which process it is.
        world: How many there are.
        folder: Where the jobs' own folders are, and the errors go.
        jobs: Name of the folder, function of this module, strategy, and more arguments of it.
    """
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "GROUP_RANK": "0", "WORLD_SIZE": str(world)}
    os.environ |= {"LOCAL_WORLD_SIZE": str(world), "TORCHELASTIC_RUN_ID": "test"}  # as torchrun does
    os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": "0"}  # the processes have met already
    speak_into(Path(folder, f"{rank}.log"))
    try:
        torch.distributed.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=world)
        for name, job, strategy, options in jobs:
            place = Path(folder, name)
            place.mkdir(exist_ok=True)
            globals()[job](str(place), strategy, rank, world, **options)
    except BaseException:
        Path(folder, f"{rank}.error").write_text(traceback.format_exc())
        os._exit(1)  # the others are not waited for
