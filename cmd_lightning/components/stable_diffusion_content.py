"""The second stage on a pretrained image model: Stable Diffusion is fine-tuned to generate content frames."""

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
    """Fine-tunes Stable Diffusion's U-Net, all weights or with adapters (paper App. B.3: 1.5 and 2.1-base).

    The architecture is in the config. Weights, tokenizer, text encoder and noise schedule are read from `base` when
    training begins. Training that resumes from a checkpoint takes the weights of the U-Net, or with `lora` those of the
    adapters, from the checkpoint.

    Args:
        base: Stable Diffusion folder in diffusers' layout, or hub id.
        network: Creates the U-Net, with the architecture of `base`.
        autoencoder: Checkpoint of the autoencoder stage, a model (zoo name or exported folder) that has one, or the
            trained network itself.
        text_width: Channels of the text encoder of `base`: 768 for 1.5, 1024 for 2.1.
        variant: Variant of the weights of `base`, such as "fp16"; training is in float32 even then.
        revision: Branch, tag or commit of a hub id.
        lora: Train low-rank adapters only; None trains all weights, as the paper does.
        objective: Prediction, noise schedule and weights of the loss; by default those of `base`.
        **kwargs: Arguments of `ContentDiffusion`.

    Examples:
        Adapters for Stable Diffusion 1.5. `base` is not read before training, and the small U-Net here is in place of
        its architecture, `cmd_lightning.zoo.content.unet.unet` with the default sizes:

        >>> from cmd_lightning.components import StableDiffusionContent
        >>> from cmd_lightning.networks.lora import LoRA
        >>> from cmd_lightning.zoo.autoencoders.cmd import CMDAutoencoder
        >>> from cmd_lightning.zoo.content.unet import unet
        >>> stage = StableDiffusionContent(
        ...     base="stable-diffusion-v1-5/stable-diffusion-v1-5",
        ...     network=lambda spec, condition_dim: unet(spec, condition_dim, (8, 16), 1, 2),
        ...     autoencoder=CMDAutoencoder(channels=4, width=16, depth=1, heads=2, head_dim=8, output="linear"),
        ...     video_shape=(4, 16, 32, 32),
        ...     lora=LoRA(rank=8),
        ... )
        >>> stage.latent_spec.content, stage.network.config.cross_attention_dim
        ((4, 32, 32), 768)
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
        """As for `Component`; the adapters of the stage are merged into the U-Net."""
        super().adopt(stage, source)
        self._prepared = True

    def setup(self, stage: str) -> None:
        """Reads the weights of `base`, and adds the adapters."""
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
