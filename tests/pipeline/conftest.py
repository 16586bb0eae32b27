"""A small pipeline on the stock parts of Stable Diffusion, and settings of few steps."""

import pytest
import torch
from stable_diffusion_folders import text_of, unet_of, vae_of

SHAPE = (4, 3, 4, 6)


WORDS = ["a", "red", "blue", "green", "circle", "square", "star", "moves", "left", "right"]


@pytest.fixture
def captions(wake):
    """Makes a small encoder of captions, which costs less than a text tower."""
    from cmd_lightning.conditioning import PhraseEncoder

    def make():
        encoder = wake(PhraseEncoder(WORDS, phrases=1, dim=16), 0.3)
        with torch.no_grad():
            encoder.table.weight[0] = 0  # of no word, which pads captions
        return encoder

    return make


@pytest.fixture
def captioned(tiny_pipeline, captions):
    """Makes a small pipeline of captions."""
    return lambda **changes: tiny_pipeline(
        "label", **{"text_encoder": captions(), "motion_text_encoder": captions()} | changes
    )


@pytest.fixture
def few():
    """Arguments of a short call with guidance in both stages."""
    return {"num_inference_steps": {"content": 2, "motion": 3}, "guidance_scale": {"content": 2.0, "motion": 1.5}}


@pytest.fixture
def stable_pipeline(wake, tiny_autoencoder, captions, tmp_path):
    """A pipeline of captions whose U-Net, VAE, text encoder and tokenizer are Stable Diffusion's classes."""
    from cmd_lightning.diffusion import Diffusion
    from cmd_lightning.pipeline import CMDPipeline
    from cmd_lightning.zoo.motion.dit import MotionDiT

    text, tokenizer = text_of("1.5", tmp_path / "vocabulary")
    autoencoder = tiny_autoencoder(channels=4)
    pipeline = CMDPipeline(
        autoencoder,
        unet=wake(unet_of("1.5"), 0.02),
        scheduler=Diffusion().scheduler(),
        text_encoder=text.eval(),
        tokenizer=tokenizer,
        vae=vae_of().eval(),
        motion_model=wake(MotionDiT(autoencoder.latent_spec(SHAPE), 16, width=16, depth=1, heads=2)),
        motion_scheduler=Diffusion().scheduler(),
        motion_text_encoder=captions(),
        video_shape=SHAPE,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
