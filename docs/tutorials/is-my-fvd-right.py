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
# # Is my FVD right?
#
# FVD is a Fréchet distance between features of real and of generated videos. The same videos can give very different
# numbers. This page shows what moves the number: how many clips there are, which program's preset is used, the size and
# the frame rate. At the end is the list of what to state with it.
#
# The features here are those of a small included network for moving shapes, so that everything runs offline on a CPU.
# So these numbers are **not FVD**. With the published I3D weights, leave `feature=` out and everything else stays.

# %%
import os
import warnings

import matplotlib.pyplot as plt
import torch
from torch.nn.functional import avg_pool3d, interpolate

from cmd_lightning.metrics import FrechetVideoDistance, KernelVideoDistance
from cmd_lightning.metrics.feature_networks import open_feature
from cmd_lightning.shapes.painting import make_clip

SHORT = bool(os.environ.get("CMD_SHORT"))  # few clips, to test this page
CLIPS = 32 if SHORT else 512
RESAMPLES = 10 if SHORT else 100

torch.set_num_threads(1)
warnings.simplefilter("ignore")  # about few clips, which is the topic here
network = open_feature("shapes")


def clips(first, number=CLIPS):
    """Clips of moving shapes, uint8 (B, 3, T, H, W), 16 frames of 64×64 pixels."""
    return torch.stack([make_clip(0, first + i, level="mixed", motion="middle")[0] for i in range(number)])


@torch.no_grad()
def features(videos):
    """Features (B, 96) of clips."""
    return torch.cat([network(part / 255) for part in videos.split(64)])


def distance(real, fake, metric=FrechetVideoDistance, **options):
    """A metric of two sets of features. For clips in place of features: `update`."""
    found = metric(feature=network, **options)
    found.update_features(real, real=True)
    found.update_features(fake, real=False)
    return found


# %% [markdown]
# Two sets of real clips, and a set of "generated" ones: other clips, blurred to a quarter of their resolution.

# %%
real, other = clips(0), clips(10_000)
sharp = clips(20_000)
fake = interpolate(avg_pool3d(sharp.float(), (1, 4, 4)), scale_factor=(1, 4, 4), mode="trilinear").round().byte()
figure, axes = plt.subplots(2, 6, figsize=(7, 2.4))
for row, (name, videos) in enumerate({"real": real, "generated": fake}.items()):
    axes[row, 0].set_ylabel(name)
    for column, axis in enumerate(axes[row]):
        axis.imshow(videos[column, :, 8].permute(1, 2, 0))
        axis.set(xticks=[], yticks=[])
plt.show()

# %% [markdown]
# ## 1. Where is zero?
#
# Before you trust a number, compare a set with itself and with another set of the same kind. The first distance is 0.
# The second is not: it is the best that a perfect model could reach with this number of clips.

# %%
x, sets = features(real), {"other real clips": features(other), "generated clips": features(fake)}
for name, y in {"themselves": x, **sets}.items():
    print(f"real clips to {name:17} {distance(x, y).compute():8.2f}")

# %% [markdown]
# ## 2. How many clips?
#
# The Fréchet distance is biased: the fewer clips, the larger, by about 1/N. So compare only at the same N. The kernel
# distance (KVD) has no bias, and needs no correction.

# %%
numbers = [number for number in (32, 64, 128, 256, 512) if number <= CLIPS]
found = {}
for name, metric in {"Fréchet": FrechetVideoDistance, "kernel": KernelVideoDistance}.items():
    for what, y in sets.items():
        found[name, what] = [float(distance(x[:n], y[:n], metric).compute()) for n in numbers]
print(f"{'clips':26}", *(f"{number:9}" for number in numbers))
for (name, what), values in found.items():
    print(f"{name:8} {what:17}", *(f"{value:9.3f}" for value in values))
figure, axes = plt.subplots(1, 2, figsize=(7, 2.6), layout="constrained")
for axis, name in zip(axes, ("Fréchet", "kernel"), strict=True):
    for what in reversed(sets):
        axis.plot(numbers, found[name, what], "o-", label=what)
    axis.set(xscale="log", xlabel="clips", title=f"{name} distance", xticks=numbers, xticklabels=numbers)
    axis.minorticks_off()
axes[0].legend()
plt.show()

# %% [markdown]
# ## 3. How certain is it?
#
# `keep_features=True` (on the command line `--intervals`) gives a bootstrap interval, which is the scatter by the
# choice of clips and not the bias, and the value at a quarter and at half of the clips. The line over 1/N through these
# values estimates the distance for infinitely many clips.

# %%
from cmd_lightning.metrics.sample_size import extrapolated  # noqa: E402

for name, y in sets.items():
    metric = distance(x, y, keep_features=True)
    low, high = metric.interval(resamples=RESAMPLES)
    curve = metric.curve()
    shown = ", ".join(f"{value:.2f} at {number}" for number, value in curve.items())
    print(f"{name}: {metric.compute():.2f}, 95 % interval {low:.2f} to {high:.2f}")
    print(f"  {shown}, for infinitely many {extrapolated(curve):.2f}")

# %% [markdown]
# ## 4. Whose FVD?
#
# Three lineages of programs compute "FVD", and `preset` follows each. On clips that are not square they even see other
# pixels: VideoGPT cuts out the centre, the others stretch. Antialiasing, which none of them uses, changes the number
# again. Here the same 48×64 clips are compared four times; the presets usually resize to 224 pixels, here to 32.

# %%
wide = [videos[..., 8:56, :] for videos in (real, fake)]
small = "range=0..1,side=32"
for preset in (f"stylegan-v,{small}", f"videogpt,{small}", f"tf,{small}", f"stylegan-v,{small},antialias=true"):
    metric = FrechetVideoDistance(feature=network, preset=preset)
    for first in range(0, CLIPS, 64):
        metric.update(wide[0][first : first + 64], real=True)
        metric.update(wide[1][first : first + 64], real=False)
    print(f"{preset:46} {metric.compute():8.2f}")

# %% [markdown]
# ## 5. Size and frame rate
#
# Evaluate at the size and rate that the other paper used. Here the same clips at half of their frame rate, and after
# both sides went through 16×16 pixels.

# %%
shrunk = [interpolate(videos.float(), scale_factor=(1, 0.25, 0.25)).round().byte() for videos in (real, fake)]
for name, pair in {
    "as they are": (real, fake),
    "every second frame": (real[:, :, ::2], fake[:, :, ::2]),
    "resized to 16x16": shrunk,
}.items():
    print(f"{name:20} {distance(*map(features, pair)).compute():8.2f}")

# %% [markdown]
# ## What to state
#
# The preset, the number of clips of each side, frames and frame rate, the size, how clips were chosen, and the weights.
# `cmd-lightning evaluate ... --json FILE` writes all of it next to the number. The
# [guide](../evaluate.md#fvd-that-can-be-compared) has the options, and
# [the protocols](../../cmd_lightning/metrics/README.md#which-fvd) say which paper uses which preset.
