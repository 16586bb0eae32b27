"""Latte's text-to-video model: diffusers' `LatteTransformer3DModel`."""

from __future__ import annotations

from typing import Any, ClassVar

from diffusers import LatteTransformer3DModel
from torch import Tensor

from cmd_lightning.errors import InputError
from cmd_lightning.networks import Condition, VideoDenoiser
from cmd_lightning.networks.stock import StockDenoiser


class Latte(StockDenoiser, VideoDenoiser):
    """Diffusion transformer whose blocks attend over space and over time in turn (arXiv 2401.03048).

    At `condition_dim` 4096 (T5's tokens) the defaults are Latte-1. Published weights: hub id `maxin-cn/Latte-1`, part
    `transformer`. It predicts a variance too, which is left out. Padding of the text is set to zero, as its pipeline
    does. It has positions for the T frames that it is made for and takes no other number.
    """

    _supports_gradient_checkpointing = True
    stock_class = LatteTransformer3DModel
    part = "transformer"
    published: ClassVar[dict[str, Any]] = {
        "activation_fn": "gelu-approximate",
        "attention_bias": True,
        "attention_head_dim": 72,
        "cross_attention_dim": 1152,
        "norm_elementwise_affine": False,
        "norm_eps": 1e-6,
        "norm_type": "ada_norm_single",
        "num_attention_heads": 16,
        "num_embeds_ada_norm": 1000,
        "num_layers": 28,
        "patch_size": 2,
    }

    def check_latent(self, latent: tuple[int, ...]) -> None:
        super().check_latent(latent)
        _, _, height, width = latent
        patch = self.stock.config.patch_size
        if height % patch or width % patch:
            raise InputError(
                f"Latte: latents of {height}x{width} points: height and width must be multiples of its patch_size "
                f"{patch}; choose another data.size, or settings.patch_size"
            )

    @classmethod
    def fitting(cls, latent: tuple[int, int, int, int], condition_dim: int) -> dict[str, Any]:
        channels, frames, height, _ = latent
        channels_of = {"in_channels": channels, "out_channels": 2 * channels, "caption_channels": condition_dim}
        return {"sample_size": height, "video_length": frames} | channels_of

    @classmethod
    def fits(cls, config: dict[str, Any]) -> tuple[tuple[int, int, int, int], int]:
        size = config["sample_size"]
        return (config["in_channels"], config["video_length"], size, size), config["caption_channels"]

    @classmethod
    def frames(cls, config: dict[str, Any]) -> range:
        return range(config["video_length"], config["video_length"] + 1)

    def forward(self, latent: Tensor, timestep: Tensor, condition: Condition | None) -> Tensor:
        return super().forward(latent, timestep, condition)[:, : latent.shape[1]]

    def tokens(self, latent: Tensor, condition: Condition | None) -> Tensor:
        tokens = super().tokens(latent, condition)
        if condition is None or condition.mask is None or not self.condition_dim:
            return tokens
        return tokens * condition.mask[..., None]
