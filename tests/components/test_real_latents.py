"""CMD overfits real clips in the latents of a pretrained image autoencoder, and decodes them."""

from functools import partial

import pytest
import torch
from lightning import Trainer, seed_everything
from taef2 import TAEF2
from torch.utils.data import DataLoader

from cmd_lightning.components import VideoAutoencoder
from cmd_lightning.components.checkpoints import load_stage
from cmd_lightning.data.clips import resize_and_crop
from cmd_lightning.latent_space import FrameLatents, from_uint8
from cmd_lightning.metrics.reconstruction import psnr
from cmd_lightning.video_io import read_video
from cmd_lightning.zoo.autoencoders.cmd import CMDAutoencoder

CLIPS = ("wave_two_hands_s0", "jumping_jack_s1")


@pytest.fixture(scope="module")
def batch(assets):
    paths = [assets / "videos/weizmann64" / f"{name}.mp4" for name in CLIPS]
    video = torch.stack([resize_and_crop(read_video(path, range(0, 24, 3)), (64, 64)) for path in paths])
    return {"video": video, "caption": ["", ""], "key": list(CLIPS), "fps": torch.full((2,), 8.0)}


@pytest.mark.slow
def test_real_clips_in_real_latents(assets, batch, tmp_path):
    seed_everything(0)
    space = FrameLatents(TAEF2(str(assets / "weights/taef2")), chunk_size=16)
    network = partial(CMDAutoencoder, 32, 1, 64, 8, 2, 4, 16, output="linear")
    optimizer = partial(torch.optim.Adam, lr=6e-3, betas=(0.9, 0.99))
    component = VideoAutoencoder(network, latent_space=space, optimizer=optimizer)
    clips = from_uint8(batch["video"])
    moments = space.moments(clips)
    origin = {"latent_space": space.fingerprint, "autoencoder": None}
    latents = {key: value for key, value in batch.items() if key != "video"}
    latents |= {"moments": moments, "made_by": [origin, origin]}  # encoded once, as from latent shards
    trainer = Trainer(
        max_steps=100,
        accelerator="cpu",
        gradient_clip_val=1.0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    trainer.fit(component, DataLoader([latents] * 100, batch_size=None))
    trainer.save_checkpoint(tmp_path / "last.ckpt")

    stage = load_stage(tmp_path / "last.ckpt", "autoencoder", "autoencoder")  # its own process would do the same
    network, space = stage.parts["network"], stage.latent_space
    with torch.no_grad():
        learned = psnr(space.decode(network(space.encode(clips))), clips)
        best = psnr(space.decode(space.encode(clips)), clips)
        still = psnr(space.decode(space.encode(clips).mean(2, keepdim=True).expand_as(moments)), clips)
    assert (best > 30).all()
    assert (learned > still + 4).all(), (still, learned, best)
