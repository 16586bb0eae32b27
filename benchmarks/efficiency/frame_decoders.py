"""From a video's latents to its pixels: the decoders of image and video autoencoders, of random weights."""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL, AutoencoderKLLTXVideo, AutoencoderTiny
from torch import Tensor, nn


class Decoder(nn.Module):
    """An autoencoder of diffusers without its encoder."""

    def __init__(self, autoencoder: nn.Module) -> None:
        super().__init__()
        autoencoder.encoder = nn.Identity()
        autoencoder.quant_conv = nn.Identity()
        self.autoencoder = autoencoder

    def forward(self, latent: Tensor) -> Tensor:
        """Latents to pixels."""
        return self.autoencoder.decode(latent, return_dict=False)[0]


class FrameByFrame(nn.Module):
    """Decodes the frames of a video one after the other, which takes the least memory."""

    def __init__(self, decoder: Decoder) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, latent: Tensor) -> Tensor:
        """`(B, C, T, h, w)` to `(B, 3, T, H, W)`."""
        # Copies: a CUDA graph's next run writes where this one did.
        return torch.stack([self.decoder(frame).clone() for frame in latent.unbind(2)], dim=2)


def vae(divisor: int = 1) -> AutoencoderKL:
    """Stable Diffusion's autoencoder, with channels divided by `divisor`."""
    channels = tuple(number // divisor for number in (128, 256, 512, 512))
    kinds = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
    return AutoencoderKL(block_out_channels=channels, layers_per_block=2, **kinds)


def tiny_vae(divisor: int = 1) -> AutoencoderTiny:
    """The tiny autoencoder of Stable Diffusion's latents, with channels divided by `divisor`."""
    channels = (64 // divisor,) * 4
    return AutoencoderTiny(encoder_block_out_channels=channels, decoder_block_out_channels=channels)


def stable_diffusion(divisor: int = 1) -> FrameByFrame:
    """The decoder of `vae`, a frame at a time."""
    return FrameByFrame(Decoder(vae(divisor)))


def tiny(divisor: int = 1) -> FrameByFrame:
    """The decoder of `tiny_vae`, a frame at a time."""
    return FrameByFrame(Decoder(tiny_vae(divisor)))


def ltx() -> Decoder:
    """LTX-Video's own decoder, which takes all frames at once."""
    return Decoder(AutoencoderKLLTXVideo())
