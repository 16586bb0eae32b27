"""The paper's own configs, made small: command lines of fits on a small Stable Diffusion folder."""

import json

from stable_diffusion_folders import UNETS

SIZE = (32, 48)  # not square: latents of 4 x 6
STAGES = ("autoencoder", "content", "motion")

SMALL = {
    "autoencoder": ["--model.network.width=16", "--model.network.depth=1", "--model.network.heads=2"],
    "content": ["--model.network.block_out_channels=[16,32]", "--model.network.layers_per_block=1"],
    "motion": ["--model.network.width=16", "--model.network.depth=1", "--model.network.heads=2"],
}


def options(stage, base, shards, folder, kind):
    """The command line of a fit of the paper's own config, made small."""
    unet = UNETS[kind]
    own = {
        "autoencoder": [f"--model.latent_space.vae={base}"],
        "content": [
            f"--model.base={base}",
            f"--model.text_width={unet['cross_attention_dim']}",
            f"--model.network.attention_head_dim={json.dumps(unet['attention_head_dim'])}",
        ],
        "motion": [
            "--model.condition=OpenCLIPTextEncoder",
            '--model.condition.text_cfg={"context_length": 12, "width": 16, "heads": 2, "layers": 1}',
        ],
    }[stage]
    if stage != "autoencoder":
        own.append(f"--model.autoencoder={folder / 'autoencoder/last.ckpt'}")
    config = {"1.5": "webvid_sd15", "2.1": "webvid_sd21"}[kind]
    return [
        *("-c", f"configs/{config}/{stage}.yaml", *own, *SMALL[stage], *data(shards)),
        *("--trainer.accelerator=cpu", "--trainer.precision=32-true", "--trainer.accumulate_grad_batches=1"),
        *("--trainer.max_steps=2", "--trainer.val_check_interval=2", f"--trainer.default_root_dir={folder / stage}"),
        f'--trainer.callbacks=[{{"class_path": "EMA"}}, {{"class_path": "LastCheckpoint", "init_args": '
        f'{{"folder": "{folder / stage}"}}}}, {{"class_path": "VideoLogger", "init_args": {{"num_videos": 2}}}}]',
    ]


def data(shards):
    paths = [f"--data.{split}_shards={shards}" for split in ("train", "val", "test")]
    return [*paths, f"--data.size={list(SIZE)}", "--data.num_frames=5", "--data.batch_size=2", "--data.num_workers=0"]
