"""LTX-Video: diffusers' `LTXVideoTransformer3DModel`, a fast baseline."""

from __future__ import annotations

from typing import Any

from diffusers import LTXVideoTransformer3DModel
from torch import Tensor

from cmd_lightning.errors import InputError
from cmd_lightning.networks import Condition, VideoDenoiser
from cmd_lightning.networks.stock import StockDenoiser

COMPRESSION = (8, 32, 32)  # frames, rows and columns of pixels for each point; the first frame has its own
FPS = 25  # what its positions assume: its pipeline's default


def latent_shape(video_shape: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
    """The latent `(128, T', H', W')` that LTX-Video's autoencoder gives a video `(3, T, H, W)`, if it takes it."""
    _, frames, *size = video_shape
    rate, *sides = COMPRESSION
    if frames % rate != 1 or any(pixels % side for pixels, side in zip(size, sides, strict=True)):
        raise InputError(
            f"LTX: {frames} frames of {size[0]}x{size[1]} pixels: it takes 1 + {rate}n frames and sides that are "
            f"multiples of {sides[0]}; choose such a video, as 17 frames for 16"
        )
    return (128, (frames - 1) // rate + 1, size[0] // sides[0], size[1] // sides[1])


class LTX(StockDenoiser, VideoDenoiser):
    """Diffusion transformer with full attention over all points of a strongly compressed latent (arXiv 2501.00103).

    At `condition_dim` 4096 (T5's tokens) the defaults are the published model of 1.9 B parameters. Published weights:
    hub id `Lightricks/LTX-Video`, part `transformer`. It predicts the velocity of flow matching, and heeds the text's
    mask. `latent_shape` gives the latents of a video: those of its own autoencoder, diffusers'
    `AutoencoderKLLTXVideo`.
    """

    _supports_gradient_checkpointing = True
    stock_class = LTXVideoTransformer3DModel
    part = "transformer"

    @classmethod
    def fitting(cls, latent: tuple[int, int, int, int], condition_dim: int) -> dict[str, Any]:
        return {"in_channels": latent[0], "out_channels": latent[0], "caption_channels": condition_dim}

    @classmethod
    def fits(cls, config: dict[str, Any]) -> tuple[tuple[int, int, int, int], int]:
        _, *size = latent_shape((3, 17, 512, 512))  # any other size works too
        return (config["in_channels"], *size), config["caption_channels"]

    def forward(self, latent: Tensor, timestep: Tensor, condition: Condition | None) -> Tensor:
        frames, height, width = latent.shape[2:]
        masked = condition if self.condition_dim and condition is not None and condition.tokens is not None else None
        out = self.stock(
            latent.flatten(2).mT,  # (B, T' * H' * W', C)
            encoder_hidden_states=self.tokens(latent, condition),
            timestep=timestep,
            encoder_attention_mask=masked.mask if masked else None,
            num_frames=frames,
            height=height,
            width=width,
            rope_interpolation_scale=(COMPRESSION[0] / FPS, *COMPRESSION[1:]),
            return_dict=False,
        )[0]
        return out.mT.unflatten(2, (frames, height, width))
