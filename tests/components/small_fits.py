"""Small training runs of all components with all their noise, which keep losses, gradients and buffers."""

import os
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from diffusers import AutoencoderKL
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.plugins import MixedPrecision
from small_models import TEXT, wake
from torch.distributed.tensor import DTensor
from torch.utils.data import DataLoader, Dataset, default_collate

from cmd_lightning.callbacks import LastCheckpoint
from cmd_lightning.components import ContentDiffusion, MotionDiffusion, MotionDistillation, VideoAutoencoder
from cmd_lightning.conditioning import ClassEncoder, OpenCLIPTextEncoder
from cmd_lightning.latent_space import FrameLatents, Pixels
from cmd_lightning.networks.lora import LoRA
from cmd_lightning.zoo.autoencoders.cmd import CMDAutoencoder
from cmd_lightning.zoo.content.dit import ContentDiT
from cmd_lightning.zoo.content.unet import unet
from cmd_lightning.zoo.motion.dit import MotionDiT

CLIP = (3, 5, 16, 24)  # two pixels on the side of a latent point, two of these on that of a patch
LATENT = (4, 5, 8, 12)
BATCH = 4
SCALE = 2.0**10  # of gradients in 16 bits, at the start
DIT = {"width": 16, "depth": 2, "heads": 2}

CASES = {
    "autoencoder": ("autoencoder", None, None),
    "U-Net, captions": ("content", lambda spec, dim: unet(spec, dim, (8, 16), 1, 2), "caption"),
    "U-Net, LoRA": ("content", lambda spec, dim: adapted(unet(spec, dim, (8, 16), 1, 2)), "caption"),
    "content DiT, classes": ("content", lambda spec, dim: ContentDiT(spec, dim, **DIT), "label"),
    "motion DiT, captions": ("motion", lambda spec, dim: MotionDiT(spec, dim, **DIT), "caption"),
    "motion DiT, classes": ("motion", lambda spec, dim: MotionDiT(spec, dim, **DIT), "label"),
    "motion student, captions": ("motion", lambda spec, dim: MotionDiT(spec, dim, **DIT), "caption"),
}
"""By name: the stage, how its network is made, and what it is conditioned on."""


class Clips(Dataset):
    """Random clips in the order of the batches of one process, of which each of several takes its share."""

    def __init__(self, steps, rank=0, world=1):
        own = BATCH // world
        self.numbers = [step * BATCH + rank * own + i for step in range(steps) for i in range(own)]

    def __len__(self):
        return len(self.numbers)

    def __getitem__(self, i):
        number = self.numbers[i]
        video = torch.randint(0, 256, CLIP, dtype=torch.uint8, generator=torch.Generator().manual_seed(number))
        text = {"key": f"clip{number}", "caption": "a red circle moves left"[: 3 + number % 20]}
        return text | {"video": video, "label": number % 4, "fps": 8.0}


def together(samples):
    """A batch, as the DataModules make it."""
    return default_collate(samples) | {"epoch": 1}


def adapted(network):
    LoRA(rank=2).add_to(network)
    return network


def autoencoder(channels=4):
    settings = {"patch_size": 2, "width": 16, "motion_channels": 3, "depth": 2, "heads": 2, "head_dim": 8}
    return wake(CMDAutoencoder(channels, output="linear", **settings))


def sgd(weights):
    return torch.optim.SGD(weights, lr=0.1)


def adam(weights):
    # Where gradients are rounding alone, as of a bias before a norm, a small epsilon would make steps of it.
    return torch.optim.AdamW(weights, lr=0.01, eps=1e-3, fused=True)


def component(case, optimizer=sgd, pixels=False, **options):
    """A component with draws of the VAE's posterior (without `pixels`), timesteps, noise and dropped conditions."""
    stage, network, condition = CASES[case]
    torch.manual_seed(0)
    blocks = {"down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2}
    vae = AutoencoderKL(**blocks, block_out_channels=(8, 8), norm_num_groups=4, latent_channels=4)
    space = Pixels() if pixels else FrameLatents(vae)
    channels = 3 if pixels else 4
    if stage == "autoencoder":
        return VideoAutoencoder(lambda: autoencoder(channels), latent_space=space, optimizer=optimizer, **options)
    encoder = wake(OpenCLIPTextEncoder(TEXT) if condition == "caption" else ClassEncoder(4, 16))
    made = {"content": ContentDiffusion, "motion": MotionDiffusion}[stage](
        lambda spec, dim: wake(network(spec, dim)),
        autoencoder(channels),
        condition=encoder,
        condition_dropout=0.5,
        video_shape=CLIP if pixels else LATENT,
        optimizer=optimizer,
        **options,
    )
    made.keep_frozen(latent_space=space)
    return student(made, optimizer=optimizer, **options) if "student" in case else made


def student(teacher, **options):
    """A student of a component, guided, moved away from it."""
    checkpoint = {"state_dict": teacher.state_dict()}
    teacher.on_save_checkpoint(checkpoint)
    with TemporaryDirectory() as folder:
        torch.save(checkpoint, path := Path(folder, "teacher.ckpt"))
        made = MotionDistillation(str(path), guidance=2.0, **options)
    wake(made.network)
    made.keep_frozen(latent_space=teacher._frozen["latent_space"])
    return made


def mixed(precision):
    """As on a GPU: autocast, and for 16 bits a gradient scaler."""
    scaler = torch.amp.GradScaler("cpu", init_scale=SCALE) if precision == "16-mixed" else None
    return MixedPrecision(precision, "cpu", scaler)


class Notes(Callback):
    """Keeps the mean loss of all processes, the whole gradients and the motion statistics of every step."""

    def __init__(self):
        self.steps, self.losses = [], []

    def on_before_backward(self, trainer, pl_module, loss):
        # Lightning has divided it by the number of batches that make a step.
        self.losses.append(trainer.strategy.reduce(loss.detach().clone(), reduce_op="mean"))

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        gradients = {name: whole(w.grad) for name, w in pl_module.named_parameters() if w.grad is not None}
        buffers = {name: whole(buffer) for name, buffer in pl_module.named_buffers() if "motion_" in name}
        self.steps.append({"loss": torch.stack(self.losses).sum(), "gradients": gradients, "buffers": buffers})
        self.losses = []


def whole(tensor):
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach().clone()


def fit(model, folder, strategy="auto", rank=0, world=1, steps=2, resume=None, callbacks=(), length=None, **options):
    """Fits on the process's share of the clips, with batches that make up `BATCH` a step; gives what was noted."""
    notes = Notes()
    os.environ["PL_GLOBAL_SEED"] = "3"
    trainer = Trainer(
        accelerator="cpu", devices=world, strategy=strategy, max_steps=steps, logger=False, default_root_dir=folder,
        enable_progress_bar=False, enable_model_summary=False, use_distributed_sampler=False,
        enable_checkpointing=any(isinstance(callback, LastCheckpoint) for callback in callbacks),
        callbacks=[notes, *callbacks], num_sanity_val_steps=0, **options,
    )  # fmt: skip
    batch_size = BATCH // world // options.get("accumulate_grad_batches", 1)
    train = DataLoader(Clips(length or steps, rank, world), batch_size=batch_size, collate_fn=together)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # The same clips on all processes: what is shown and measured does not depend on how many there are.
        val = DataLoader(Clips(1), batch_size=2, collate_fn=together)
        trainer.fit(model, train, val, ckpt_path=resume, weights_only=True)
    return notes.steps


def assert_near(ours, theirs, rtol=1e-5):
    """Agreement of the losses, gradients and statistics of two steps; gradients relative to the largest of a tensor."""
    torch.testing.assert_close(ours["loss"], theirs["loss"], rtol=rtol, atol=0)
    torch.testing.assert_close(ours["buffers"], theirs["buffers"], rtol=rtol, atol=1e-6)
    assert ours["gradients"].keys() == theirs["gradients"].keys() and len(ours["gradients"]) > 10
    dust = 1e-6 * max(float(gradient.abs().max()) for gradient in theirs["gradients"].values())
    for name, gradient in theirs["gradients"].items():
        largest = float(gradient.abs().max())
        # What is zero but for rounding, as a bias before a norm, is so everywhere.
        bound = rtol * largest if largest > dust else 2 * dust
        difference = float((ours["gradients"][name] - gradient).abs().max())
        assert difference <= bound, f"{name}: differs by {difference}, where the largest is {largest}"


def assert_near_in_half(ours, theirs, precision):
    """Agreement of a step in half precision with one in single precision; gradients have been unscaled."""
    scale = SCALE if precision == "16-mixed" else 1.0
    torch.testing.assert_close(ours["loss"] / scale, theirs["loss"], rtol=0.02, atol=0)
    ours, theirs = (torch.cat([g.flatten() for g in step["gradients"].values()]) for step in (ours, theirs))
    assert torch.cosine_similarity(ours, theirs, dim=0) > 0.99
    assert 0.98 < ours.norm() / theirs.norm() < 1.02
