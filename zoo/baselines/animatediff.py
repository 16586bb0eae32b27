"""AnimateDiff: diffusers' `UNetMotionModel`."""

from __future__ import annotations

import os
from typing import Any

from diffusers import MotionAdapter, UNet2DConditionModel, UNetMotionModel
from torch import Tensor

from cmd_lightning.errors import InputError, reason
from cmd_lightning.networks import Condition, VideoDenoiser
from cmd_lightning.networks.stock import StockDenoiser, find
from cmd_lightning.pretrained import Repository

ADAPTER = "guoyww/animatediff-motion-adapter-v1-5-2"  # the published motion modules for Stable Diffusion 1.5


class AnimateDiff(StockDenoiser, VideoDenoiser):
    """Stable Diffusion's U-Net with a temporal transformer after every block (arXiv 2307.04725).

    At `condition_dim` 768 the defaults are Stable Diffusion 1.5 with the published motion modules. It attends to all
    tokens of the text, padding included.
    """

    _supports_gradient_checkpointing = True
    stock_class = UNetMotionModel
    part = "unet"

    @classmethod
    def fitting(cls, latent: tuple[int, int, int, int], condition_dim: int) -> dict[str, Any]:
        return super().fitting(latent, condition_dim) | {"motion_max_seq_length": max(32, latent[1])}

    @classmethod
    def frames(cls, config: dict[str, Any]) -> range:
        return range(1, config["motion_max_seq_length"] + 1)

    def tokens(self, latent: Tensor, condition: Condition | None) -> Tensor:
        # The stock network wants the text once for every frame.
        return super().tokens(latent, condition).repeat_interleave(latent.shape[2], dim=0)

    @classmethod
    def from_pretrained(  # type: ignore[override]  # as for `StockDenoiser`
        cls,
        name: str | os.PathLike[str],
        latent: tuple[int, int, int, int] | None = None,
        motion: str | os.PathLike[str] = ADAPTER,
        **options: Any,
    ) -> StockDenoiser:
        """Opens what `StockDenoiser` opens, or the U-Net of Stable Diffusion 1.5 together with motion modules.

        Args:
            name: As for `StockDenoiser`; also the folder or hub id of a Stable Diffusion pipeline.
            latent: As for `StockDenoiser`.
            motion: Folder or hub id of a `MotionAdapter`, for a U-Net of Stable Diffusion.
            **options: As for `StockDenoiser`.

        Raises:
            InputError: As for `StockDenoiser`, or the U-Net and the motion modules do not fit each other.
        """
        wanted = (cls.__name__, UNetMotionModel.__name__, UNet2DConditionModel.__name__)
        source = Repository(str(name), options=options)
        holds, part = find(source, cls.part, wanted)
        if holds != UNet2DConditionModel.__name__:
            return super().from_pretrained(name, latent, **options)
        of_both = {key: value for key, value in options.items() if key not in ("subfolder", "variant", "revision")}
        modules = Repository(str(motion), option="motion", options=of_both)
        find(modules, "", [MotionAdapter.__name__])
        unet = source.read(UNet2DConditionModel.from_pretrained, part)
        adapter = modules.read(MotionAdapter.from_pretrained, "")
        try:
            stock = UNetMotionModel.from_unet2d(unet, adapter)
        except (ValueError, RuntimeError) as error:
            raise InputError(
                f"motion {motion}: it does not fit the U-Net of {name} ({reason(error)}); give a Stable Diffusion 1.5 "
                "model, or motion modules made for it"
            ) from error
        return cls.around(stock, latent)
