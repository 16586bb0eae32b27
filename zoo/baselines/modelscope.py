"""ModelScope's text-to-video model: diffusers' `UNet3DConditionModel`."""

from __future__ import annotations

from diffusers import UNet3DConditionModel

from cmd_lightning.networks import VideoDenoiser
from cmd_lightning.networks.stock import StockDenoiser


class ModelScope(StockDenoiser, VideoDenoiser):
    """Stable Diffusion's U-Net with temporal convolutions and temporal attention after every spatial block.

    A baseline of the paper (its tables 8 to 10). At `condition_dim` 1024 the defaults are the published model, 1.411 B
    parameters; the paper's 1.7 B may count the text encoder and the VAE too. Published weights: hub id
    `damo-vilab/text-to-video-ms-1.7b`, part `unet` (CC BY-NC 4.0). Like Stable Diffusion's U-Net, it attends to all
    tokens, padding included. The class of diffusers knows no gradient checkpointing.
    """

    stock_class = UNet3DConditionModel
    part = "unet"
