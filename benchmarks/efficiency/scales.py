"""The compared systems, each at several network sizes: `SCALES`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from diffusers import AutoencoderKLLTXVideo

from benchmarks.calls import NETWORKS, network_of
from benchmarks.efficiency.systems import Decoder, System, image_decoders, in_pixels
from cmd_lightning.zoo.autoencoders.cmd import CMDAutoencoder
from cmd_lightning.zoo.autoencoders.triplane import TriplaneAutoencoder
from cmd_lightning.zoo.baselines.animatediff import AnimateDiff
from cmd_lightning.zoo.baselines.latte import Latte
from cmd_lightning.zoo.baselines.ltx import LTX, latent_shape
from cmd_lightning.zoo.baselines.lvdm import LVDM
from cmd_lightning.zoo.baselines.modelscope import ModelScope
from cmd_lightning.zoo.baselines.pvdm import TriplaneUNet
from cmd_lightning.zoo.content.dit import ContentDiT
from cmd_lightning.zoo.content.unet import unet
from cmd_lightning.zoo.motion.aligned import AlignedDiT
from cmd_lightning.zoo.motion.dit import MotionDiT

DECODERS, SMALL_DECODERS = image_decoders(), image_decoders(4)
LTX_DECODERS = {"full": lambda: Decoder(AutoencoderKLLTXVideo())}  # which takes all frames at once

PAPER = {
    "CMD": System(
        {"content": partial(unet, **NETWORKS["content"]), "motion": partial(MotionDiT, **NETWORKS["motion"])},
        partial(CMDAutoencoder, **NETWORKS["autoencoder, measured"]),
        decoders=DECODERS,
    ),
    "LVDM": System({"denoiser": LVDM}, width=768, decoders=DECODERS),
    "ModelScope": System({"denoiser": ModelScope}, decoders=DECODERS),
    "AnimateDiff": System({"denoiser": AnimateDiff}, width=768, decoders=DECODERS),
    "Latte": System({"denoiser": Latte}, width=4096, tokens=120, decoders=DECODERS),
    "LTX": System({"denoiser": LTX}, width=4096, tokens=128, frames=17, space=latent_shape, decoders=LTX_DECODERS),
    "PVDM-like": System({"denoiser": TriplaneUNet}, TriplaneAutoencoder, space=in_pixels),
}
"""As published: the autoencoder of CMD's efficiency tables, Stable Diffusion 2.1's U-Net and DiT-XL/2, the content
frame in patches of 8; LTX-Video with the 17 frames that its autoencoder takes; the three planes over pixels."""

CHANNELS = {"block_out_channels": (64, 128, 256, 256)}

FIFTH = {
    "CMD": System(
        {
            "content": partial(unet, **NETWORKS["content"] | CHANNELS | {"attention_head_dim": [1, 2, 4, 4]}),
            "motion": partial(MotionDiT, **NETWORKS["motion"] | {"width": 240, "heads": 3}),
        },
        partial(CMDAutoencoder, **NETWORKS["autoencoder, measured"] | {"width": 80, "heads": 2, "head_dim": 40}),
        decoders=SMALL_DECODERS,
    ),
    "LVDM": System({"denoiser": partial(LVDM, width=64, heads=2)}, width=768, decoders=SMALL_DECODERS),
    "ModelScope": System(
        {"denoiser": partial(ModelScope, settings=CHANNELS | {"attention_head_dim": 16})}, decoders=SMALL_DECODERS
    ),
    "PVDM-like": System(
        {"denoiser": partial(TriplaneUNet, width=24, heads=2)},
        partial(TriplaneAutoencoder, width=80, heads=2, head_dim=52),
        space=in_pixels,
    ),
}
"""The same architectures, depths and levels with a fifth of the channels, as near as heads and norms allow: fewer heads
of about the published size. At the same latents a network then takes about a 25th of the multiply-adds."""


def _of(network: Callable[..., Any], config: str) -> Callable[..., Any]:
    return partial(network, **network_of(config))


_PIXELS32 = partial(System, width=64, tokens=48, space=in_pixels)

SHAPES32 = {
    "CMD": _PIXELS32(
        {"content": _of(ContentDiT, "shapes32paper/content"), "motion": _of(AlignedDiT, "shapes32paper/motion")},
        _of(CMDAutoencoder, "shapes32paper/autoencoder"),
    ),
    "LVDM": _PIXELS32({"denoiser": _of(LVDM, "baselines/lvdm")}),
    "ModelScope": _PIXELS32({"denoiser": _of(ModelScope, "baselines/modelscope")}),
    "PVDM-like": _PIXELS32(
        {"denoiser": _of(TriplaneUNet, "baselines/pvdm")}, _of(TriplaneAutoencoder, "baselines/pvdm_autoencoder")
    ),
}
"""shapes32paper and the small baselines, as their configs have them: in pixels of the procedural world. Their
sizes are free choices, so that they say what these models cost and nothing of the architectures."""

SCALES: Mapping[str, Mapping[str, System]] = {"paper": PAPER, "fifth": FIFTH, "shapes32": SHAPES32}
