# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # CMD from scratch in twenty minutes on a CPU
#
# Your own clips, three stages of training, samples. The clips are drawn here, so that the page needs no data: a
# coloured shape that moves in one direction. To use yours, replace the second cell by a folder and a table of captions.
#
# `cmd-lightning train clips/ --captions clips.csv --out outputs/mine` does all of this with one command. Here each
# stage is a few lines of Python, so that you can see what it learns.

# %%
import csv
import itertools
import logging
import os
import time
import warnings
from functools import partial
from pathlib import Path

import torch
from IPython.display import Image, display
from lightning import Trainer, seed_everything
from torchvision.io import encode_png
from torchvision.utils import make_grid

from cmd_lightning.callbacks import EMA
from cmd_lightning.cli import main as cmd_lightning
from cmd_lightning.components import ContentDiffusion, MotionDiffusion, VideoAutoencoder
from cmd_lightning.components.schedules import WarmupSchedule
from cmd_lightning.conditioning import PhraseEncoder
from cmd_lightning.data.webvid import WebVidDataModule
from cmd_lightning.diffusion import FlowMatching
from cmd_lightning.pipeline import CMDPipeline
from cmd_lightning.video_encoding import write_video
from cmd_lightning.zoo.autoencoders.grid import GridAutoencoder
from cmd_lightning.zoo.content.image_unet import ContentUNet
from cmd_lightning.zoo.motion.grid import GridUNet

SHORT = bool(os.environ.get("CMD_SHORT"))  # two steps per stage, to test this page
CLIPS = 32 if SHORT else 512
STEPS = {"autoencoder": 1000, "content": 1000, "motion": 1300}
if SHORT:
    STEPS = dict.fromkeys(STEPS, 2)

torch.set_num_threads(1)
warnings.simplefilter("ignore")
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
seed_everything(0, verbose=False)


def show(*rows, frames=8):
    """Shows videos (B, C, T, H, W) in [-1, 1]: a row of frames for each, the rows of a clip one below the other."""
    cells = [row[:, :, :: max(1, row.shape[2] // frames)][:, :, :frames].expand(-1, -1, frames, -1, -1) for row in rows]
    strips = [cell[i].transpose(0, 1) for i in range(len(cells[0])) for cell in cells]
    image = make_grid(torch.cat(strips), nrow=frames, padding=2, pad_value=1, value_range=(-1, 1), normalize=True)
    image = image.repeat_interleave(2, 1).repeat_interleave(2, 2)
    display(Image(encode_png((image * 255).round().byte()).numpy().tobytes()))


# %% [markdown]
# ## 1. The clips
#
# Two shapes, four colours and four directions make 32 captions. Every clip begins at another place, in another size and
# with another speed.

# %%
COLOURS = {"red": (230, 40, 40), "green": (50, 190, 70), "blue": (50, 90, 235), "yellow": (245, 230, 60)}
DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
CAPTIONS = list(itertools.product(COLOURS, ("circle", "square"), DIRECTIONS))


def draw(colour, shape, direction, frames=16, side=32):
    """A clip of a shape on a dark background, uint8 (3, T, H, W)."""
    place, radius, speed = torch.rand(2) * 8 + 12, 4 + 3 * torch.rand(1), 0.3 + 0.5 * torch.rand(1)
    step = torch.tensor(DIRECTIONS[direction]) * speed
    centre = place[:, None] + step[:, None] * (torch.arange(frames) - frames / 2)
    points = torch.arange(side) + 0.5
    x = (points[None, None, :] - centre[0, :, None, None]).abs()
    y = (points[None, :, None] - centre[1, :, None, None]).abs()
    distance = (x.square() + y.square()).sqrt() if shape == "circle" else torch.maximum(x, y)
    inside = (radius - distance + 0.5).clamp(0, 1)  # soft edges
    ground = torch.full((3, 1, 1, 1), 40.0)
    return (ground + inside * (torch.tensor(COLOURS[colour]).view(3, 1, 1, 1) - ground)).byte()


Path("clips").mkdir(exist_ok=True)
with open("clips.csv", "w", newline="") as file:
    table = csv.writer(file)
    table.writerow(["path", "caption"])
    for number in range(CLIPS):
        words = CAPTIONS[number % len(CAPTIONS)]
        write_video(f"clips/{number:04}.mp4", draw(*words), fps=8)
        table.writerow([f"{number:04}.mp4", "a {} {} moves {}".format(*words)])

# %% [markdown]
# `shards pack` packs the clips into tar files and holds out a tenth of them. `WebVidDataModule` reads them.

# %%
code = cmd_lightning("shards pack --videos clips --captions clips.csv --hold-out 0.1 --out shards".split())


def clips(batch_size):
    """The clips as a LightningDataModule: training on shards/train, validation on shards/test."""
    return WebVidDataModule("shards/train", "shards/test", num_frames=16, size=32, stride=1, batch_size=batch_size)


data = clips(4)
data.setup("fit")
held_out = next(iter(data.val_dataloader()))
print(*held_out["caption"], sep="\n")
show(held_out["video"] / 127.5 - 1)


# %% [markdown]
# ## 2. The autoencoder: a clip as a content frame and a motion latent
#
# The content frame is the first frame of the clip. The motion latent is a grid of 8×8 points with 8 channels for each
# frame. The trainer is Lightning's; `EMA` averages the weights, and what is saved, shown and used later is the average.


# %%
def cosine(stage):
    """A learning rate that warms up and then falls to zero at the last step."""
    return partial(WarmupSchedule, warmup_steps=STEPS[stage] // 20, total_steps=STEPS[stage], decay="cosine")


def train(stage, component, batch_size):
    """Trains a component on the clips and saves it as STAGE.ckpt."""
    start = time.process_time()
    trainer = Trainer(
        max_steps=STEPS[stage],
        accelerator="cpu",
        gradient_clip_val=1.0,
        callbacks=[EMA(decay=0.99)],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=2,
        val_check_interval=STEPS[stage],
        check_val_every_n_epoch=None,
    )
    trainer.fit(component, clips(batch_size))
    trainer.save_checkpoint(f"{stage}.ckpt")
    size = sum(weight.numel() for weight in component.network.parameters()) / 1e6
    minutes = (time.process_time() - start) / 60
    print(f"{stage}: {size:.2f} M parameters, {STEPS[stage]} steps, {minutes:.1f} CPU minutes")
    return type(component).load_from_checkpoint(f"{stage}.ckpt").eval()


adam = partial(torch.optim.Adam, lr=4e-3, betas=(0.9, 0.99), fused=True)
network = partial(GridAutoencoder, patch_size=4, width=64, motion_channels=8, depth=2, heads=4, head_dim=16)
network = partial(network, weights="first", grid=(8, 8), output="linear")
stage = VideoAutoencoder(network, optimizer=adam, schedule=cosine("autoencoder"))
autoencoder = train("autoencoder", stage, batch_size=4)

# %% [markdown]
# Held-out clips, three rows each: the original, its content frame, and the reconstruction from content frame and motion
# latent.

# %%
with torch.no_grad():
    rows = autoencoder.preview(held_out)
show(rows["original"][:2], rows["content frame"][:2], rows["reconstruction"][:2])
error = (rows["reconstruction"] - rows["original"]).square().mean((1, 2, 3, 4)) / 4
print(f"PSNR of {len(error)} held-out clips: {(-10 * error.log10()).mean():.1f} dB")

# %% [markdown]
# ## 3. The content model: from a caption to a content frame
#
# A small U-Net that learns to remove noise from content frames (flow matching). `PhraseEncoder` learns a vector for
# each word of the captions. The caption is left out in a tenth of the training samples, for guidance.

# %%
WORDS = [*COLOURS, "circle", "square", "moves", *DIRECTIONS]
common = {
    "condition_dropout": 0.1,
    "cache_latents": True,  # 461 clips: each is encoded once
    "objective": FlowMatching(shift=2.0, logit_normal=(0.0, 1.0)),
    "optimizer": partial(torch.optim.Adam, lr=1e-3, betas=(0.9, 0.99), fused=True),
}
network = partial(ContentUNet, width=48, multipliers=(1, 2), layers=1, heads=4, patch_size=2, clean=True)
stage = ContentDiffusion(
    network, "autoencoder.ckpt", condition=PhraseEncoder(WORDS), schedule=cosine("content"), **common
)
content = train("content", stage, batch_size=16)

# %% [markdown]
# For four captions, the content frame of the real clip (left half) and one that the model generates (right half).

# %%
with torch.no_grad():
    rows = content.preview(held_out)
print(*held_out["caption"], sep="\n")
show(torch.cat([rows["content frame"].expand(-1, -1, 4, -1, -1), rows["sample"].expand(-1, -1, 4, -1, -1)], 2))

# %% [markdown]
# ## 4. The motion model: from a content frame to its motion
#
# A small U-Net over the motion latent. It sees the content frame, which shows what is where, and the caption, which
# gives the direction. It is the costliest stage.

# %%
network = partial(GridUNet, width=64, multipliers=(1, 1), layers=1, heads=4, frames=4, content_patch_size=4, clean=True)
stage = MotionDiffusion(
    network, "autoencoder.ckpt", condition=PhraseEncoder(WORDS), schedule=cosine("motion"), **common
)
motion = train("motion", stage, batch_size=16)

# %% [markdown]
# ## 5. Samples
#
# `export` joins the three stages to a folder in diffusers' layout, which `CMDPipeline` opens.

# %%
code = cmd_lightning("export autoencoder.ckpt content.ckpt motion.ckpt model --steps 16 --guidance 2".split())
pipeline = CMDPipeline.from_pretrained("model")
pipeline.set_progress_bar_config(disable=True)
prompts = ["a red circle moves left", "a blue square moves up", "a green circle moves down"]
prompts.append("a yellow square moves right")
videos = pipeline(prompts, seeds=[0, 1, 2, 3], output_type="pt").frames
show(videos.transpose(1, 2) * 2 - 1)

# %% [markdown]
# ## 6. How many are right?
#
# These shapes are so simple that a few lines can judge them: the mean colour of the bright pixels, and where their
# centre goes. First the held-out clips, of which all should be right, then two samples of each of the 32 captions.
# Chance is 1 of 16 for colour and direction.


# %%
def judged(video):
    """Colour and direction of the shape in a video (C, T, H, W) in [0, 255]."""
    weight = (video - 40).abs().sum(0).clamp(min=60) - 60  # (T, H, W): how much of the shape a pixel holds
    colour = (video * weight).sum((1, 2, 3)) / weight.sum().clamp(min=1)
    nearest = min(COLOURS, key=lambda name: (colour - torch.tensor(COLOURS[name])).square().sum())
    place = torch.arange(video.shape[-1]).float()
    total = weight.sum((1, 2)).clamp(min=1)
    x, y = (weight.sum(1) * place).sum(1) / total, (weight.sum(2) * place).sum(1) / total
    path = torch.stack([x[-4:].mean() - x[:4].mean(), y[-4:].mean() - y[:4].mean()])
    return nearest, max(DIRECTIONS, key=lambda name: path @ torch.tensor(DIRECTIONS[name], dtype=path.dtype))


def right(videos, captions):
    """The share of videos whose colour and direction are those of their captions."""
    pairs = [(caption.split()[1], caption.split()[-1]) for caption in captions]
    return sum(judged(video) == pair for video, pair in zip(videos, pairs, strict=True)) / len(pairs)


batches = list(data.val_dataloader())
true, captions = (
    torch.cat([batch["video"] for batch in batches]),
    [text for batch in batches for text in batch["caption"]],
)
print(f"held-out clips: {right(true.float(), captions):.0%} of {len(captions)}")
prompts = ["a {} {} moves {}".format(*words) for words in (CAPTIONS[:2] if SHORT else CAPTIONS)] * (1 if SHORT else 2)
samples = pipeline(prompts, seeds=range(len(prompts)), output_type="pt").frames.transpose(1, 2) * 255
print(f"samples: {right(samples, prompts):.0%} of {len(prompts)}")

# %% [markdown]
# Next: [train on your own clips](../train.md) with one command, [which number to trust](is-my-fvd-right.ipynb), or
# [the same method on Stable Diffusion](../stable-diffusion.md).
