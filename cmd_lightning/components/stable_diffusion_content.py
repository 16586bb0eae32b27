"""The second stage on a pretrained image model: Stable Diffusion is fine-tuned to make content frames."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from diffusers import UNet2DConditionModel

from cmd_lightning.components.adapted import AdaptedStage
from cmd_lightning.components.checkpoints import Stage
from cmd_lightning.components.content import ContentDiffusion
from cmd_lightning.diffusion import Diffusion, Objective
from cmd_lightning.networks import LatentSpec
from cmd_lightning.networks.contracts import AutoencoderNetwork
from cmd_lightning.networks.lora import LoRA
from cmd_lightning.pretrained_text import StableDiffusionText
from cmd_lightning.stable_diffusion import StableDiffusion


class StableDiffusionContent(AdaptedStage, ContentDiffusion):
    """Fine-tunes Stable Diffusion's U-Net, all of it or by adapters (paper App. B.3: 1.5 and 2.1-base).

    The architecture stands in the config; weights, tokenizer, text encoder and noise schedule are those of `base`, and
    read when a fit begins. A fit that goes on from a checkpoint takes the weights of the U-Net, or with `lora` of the
    adapters, from there.

    Args:
        base: Stable Diffusion folder in diffusers' layout, or hub id.
        network: Makes the U-Net, of the architecture of `base`.
        autoencoder: Checkpoint of the autoencoder stage, a model (zoo name or exported folder) that has one, or the
            trained network itself.
        text_width: Channels of its text encoder: 768 for 1.5, 1024 for 2.1.
        variant: Of the weights of `base`, such as "fp16"; they are trained in float32 all the same.
        revision: Of a hub id: branch, tag or commit.
        lora: Train low-rank adapters only; None trains all weights, as the paper does.
        objective: What is predicted and how it is weighted; by default the prediction and noise schedule of `base`.
        **kwargs: As for `ContentDiffusion`.
    """

    def __init__(
        self,
        base: str,
        network: Callable[[LatentSpec, int], UNet2DConditionModel],
        autoencoder: str | AutoencoderNetwork,
        text_width: int = 768,
        variant: str | None = None,
        revision: str | None = None,
        lora: LoRA | None = None,
        objective: Objective | None = None,
        **kwargs: Any,
    ) -> None:
        text = StableDiffusionText(base, text_width, variant, revision)
        usual = objective or Diffusion(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
        super().__init__(network, autoencoder, condition=text, objective=usual, **kwargs)
        self.base = StableDiffusion(base, variant, revision)
        self.lora = lora
        self._objective_of_base = objective is None
        self._prepared = False

    @classmethod
    def arguments_of(cls, stage: Stage) -> dict[str, Any]:
        given = super().arguments_of(stage)
        text = given.pop("condition").config
        return given | {"text_width": text["width"]} | {name: text[name] for name in ("base", "variant", "revision")}

    def adopt(self, stage: Stage, source: str) -> None:
        """Takes over what a trained stage knows; its adapters are folded into the U-Net."""
        super().adopt(stage, source)
        self._prepared = True

    def setup(self, stage: str) -> None:
        """Reads what `base` gives, and adds the adapters."""
        super().setup(stage)
        if self._objective_of_base:
            self.objective = Diffusion.of(self.base.config("scheduler"))
        if self._prepared:
            return
        self._prepared = True
        if self.lora or not self.trainer.ckpt_path:
            self.base.load_unet(self.network)
        if self.lora:
            self.add_adapters(self.base)
