"""The paper's configs, made small: options, and command lines of training on a small Stable Diffusion folder."""

import json

from small_models import TEXT
from stable_diffusion_folders import UNETS

SIZE = (32, 48)  # not square: latents of 4 x 6
STAGES = ("autoencoder", "content", "motion")

DIT = ["--model.network.width=16", "--model.network.depth=1", "--model.network.heads=2"]


def small(stage, base, kind="1.5"):
    """Options that make the network of a stage small, for a base model of a kind, and its text encoder."""
    unet = UNETS[kind]
    return {
        "autoencoder": [*DIT, f"--model.latent_space.vae={base}"],
        "content": [
            *("--model.network.block_out_channels=[16,32]", "--model.network.layers_per_block=1"),
            f"--model.base={base}",
            f"--model.text_width={unet['cross_attention_dim']}",
            f"--model.network.attention_head_dim={json.dumps(unet['attention_head_dim'])}",
        ],
        "motion": [
            *(*DIT, "--model.condition=OpenCLIPTextEncoder"),
            f"--model.condition.text_cfg={json.dumps(TEXT)}",
        ],
    }[stage]


def options(stage, base, shards, folder, kind):
    """The command line to train with a small version of a config of the paper."""
    own = small(stage, base, kind)
    if stage != "autoencoder":
        own.append(f"--model.autoencoder={folder / 'autoencoder/last.ckpt'}")
    config = {"1.5": "webvid_sd15", "2.1": "webvid_sd21"}[kind]
    return [
        *("-c", f"configs/{config}/{stage}.yaml", *own, *data(shards)),
        *("--trainer.accelerator=cpu", "--trainer.precision=32-true", "--trainer.accumulate_grad_batches=1"),
        *("--trainer.max_steps=2", "--trainer.val_check_interval=2", f"--trainer.default_root_dir={folder / stage}"),
        f'--trainer.callbacks=[{{"class_path": "EMA"}}, {{"class_path": "LastCheckpoint", "init_args": '
        f'{{"folder": "{folder / stage}"}}}}, {{"class_path": "VideoLogger", "init_args": {{"num_videos": 2}}}}]',
    ]


def data(shards):
    paths = [f"--data.{split}_shards={shards}" for split in ("train", "val", "test")]
    return [*paths, f"--data.size={list(SIZE)}", "--data.num_frames=5", "--data.batch_size=2", "--data.num_workers=0"]
