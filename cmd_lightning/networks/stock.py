"""A denoiser of diffusers behind the contract of a video denoiser: what the zoo's wrappers share."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from huggingface_hub.errors import EntryNotFoundError
from torch import Tensor, nn

from cmd_lightning.errors import InputError, reason
from cmd_lightning.networks.classes import plain
from cmd_lightning.networks.contracts import Condition, Network


class StockDenoiser(Network):
    """Holds a stock network of diffusers as `stock`, so that published weights and anything made for it fit.

    A subclass, a `VideoDenoiser` as well, names the class, says which of its arguments the published model sets and how
    others follow from latent and condition, and calls it, where that is not as for Stable Diffusion's U-Net.

    Args:
        latent: Shape `(C, T, H, W)` of a video in its latent space.
        condition_dim: Channels K of the condition's tokens; 0 for an unconditional model.
        settings: Arguments of the stock class in the place of the published ones, such as `block_out_channels`.

    Attributes:
        stock_class: The class in diffusers.
        part: The folder within a published pipeline that holds the network.
        published: Arguments of the published model that differ from the class's defaults.
    """

    stock_class: ClassVar[type[nn.Module]]
    part: ClassVar[str]
    published: ClassVar[dict[str, Any]] = {}

    def __init__(
        self, latent: tuple[int, int, int, int], condition_dim: int, settings: dict[str, Any] | None = None
    ) -> None:
        super().__init__()
        self.condition_dim = condition_dim
        arguments = self.published | self.fitting(tuple(latent), condition_dim or UNCONDITIONAL) | (settings or {})
        try:
            self.stock = self.stock_class(**arguments)
        except (TypeError, ValueError) as error:
            raise InputError(
                f"settings {settings}: {self.stock_class.__name__} of diffusers does not take them ({reason(error)}); "
                "give arguments of that class"
            ) from error

    @classmethod
    def fitting(cls, latent: tuple[int, int, int, int], condition_dim: int) -> dict[str, Any]:
        """Arguments of the stock class that follow from the latent and the condition."""
        raise NotImplementedError

    @classmethod
    def fits(cls, config: dict[str, Any]) -> tuple[tuple[int, int, int, int], int]:
        """The latent and the condition's channels of a stock config: the inverse of `fitting`."""
        size = config.get("sample_size") or 64
        return (config["in_channels"], config.get("video_length", 16), size, size), config["cross_attention_dim"]

    def forward(self, latent: Tensor, timestep: Tensor, condition: Condition | None) -> Tensor:
        return self.stock(latent, timestep, encoder_hidden_states=self.tokens(latent, condition), return_dict=False)[0]

    def tokens(self, latent: Tensor, condition: Condition | None) -> Tensor:
        """What the network attends to, `(B, L, K)`: all tokens, or the pooled vector, or one zero token."""
        if condition is None or not self.condition_dim:
            return latent.new_zeros(len(latent), 1, self.condition_dim or UNCONDITIONAL)
        tokens = condition.tokens if condition.tokens is not None else condition.pooled[:, None]
        return tokens.to(latent.dtype)

    @classmethod
    def from_pretrained(
        cls, name: str | os.PathLike[str], latent: tuple[int, int, int, int] | None = None, **options: Any
    ) -> StockDenoiser:
        """Opens a folder that `save_pretrained` wrote, or published weights in diffusers' layout.

        Args:
            name: A folder or a hub id: of this network, of the stock network, or of a pipeline with it as a part.
            latent: Shape of the latents it shall work on; by default that of the stock network's config.
            **options: Of diffusers' `from_pretrained`, such as `variant`, `revision`, `torch_dtype`.

        Raises:
            InputError: There is nothing to open, or another class's network.
        """
        wanted = (cls.__name__, cls.stock_class.__name__)
        holds, part = find(str(name), cls.part, wanted, options)
        if holds == cls.__name__:
            return super().from_pretrained(name, **options)
        return cls.around(opened(cls.stock_class, str(name), part, options), latent)

    @classmethod
    def around(cls, stock: nn.Module, latent: tuple[int, int, int, int] | None = None) -> StockDenoiser:
        """The wrapper of a stock network; `latent` as in `from_pretrained`."""
        settings = {key: plain(value) for key, value in stock.config.items() if not key.startswith("_")}
        found, condition_dim = cls.fits(settings)
        with torch.device("meta"):  # only what it records is kept
            network = cls(tuple(latent or found), condition_dim, settings)
        network.stock = stock
        return network.eval()


UNCONDITIONAL = 8
"""Channels of the one zero token that an unconditional network attends to."""

SOURCE = ("revision", "cache_dir", "token", "local_files_only", "force_download", "proxies")
"""Options of `from_pretrained` that say where things come from."""


def find(name: str, part: str, wanted: Sequence[str], options: dict[str, Any]) -> tuple[str, str]:
    """The class of a network that a folder or hub repository holds, and where in it.

    Args:
        name: The folder or the hub id.
        part: The folder in it to look into, if it holds none of `wanted` itself.
        wanted: Names of classes, of which one shall be found.
        options: Of `from_pretrained`; with `subfolder`, that is the only place.

    Raises:
        InputError: There is nothing of that name, or none of these classes.
    """
    places = [options["subfolder"]] if "subfolder" in options else ["", part]
    found = [(str(config.get("_class_name")), place) for place in places if (config := _config(name, place, options))]
    for holds, place in found:
        if holds in wanted:
            return holds, place
    what = f"it holds a {found[0][0]}" if found else "there is no config.json in it"
    if not found and not Path(name).is_dir():
        what = "neither the hub nor its cache has a config.json of it"
    whole = f", or of a pipeline that has it as {part}" if part else ""
    raise InputError(f"from_pretrained {name}: {what}; give a folder or hub id of {' or '.join(wanted)}{whole}")


def opened(kind: type[Any], name: str, part: str, options: dict[str, Any]) -> Any:
    """A network of diffusers from a folder or hub repository, in its folder `part`.

    Raises:
        InputError: It cannot be had, or its weights do not fit.
    """
    try:
        return kind.from_pretrained(name, **options | {"subfolder": part or None})
    except Exception as error:  # of many kinds: of the hub, of safetensors, of shapes
        raise _unopened(name, part, error) from error


def _config(name: str, part: str, options: dict[str, Any]) -> dict[str, Any] | None:
    """The config in the folder `part` of a folder or hub repository, or None where there is none."""
    folder = Path(name)
    if folder.is_dir():
        if not (folder / part / "config.json").is_file():
            return None
    elif not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise InputError(f"from_pretrained {name}: there is no such folder, and a hub id is OWNER/NAME; give one")
    where = {key: value for key, value in options.items() if key in SOURCE}
    try:
        return Network.load_config(name, subfolder=part or None, **where)
    except Exception as error:  # of many kinds: of the hub, of the network, of json
        if isinstance(error.__context__, EntryNotFoundError):  # where there is no network: not in the cache either
            return None
        raise _unopened(name, part, error) from error


def _unopened(name: str, part: str, error: Exception) -> InputError:
    remedy = "check the folder" if Path(name).is_dir() else "give a folder, or a hub id where there is a network"
    return InputError(f"from_pretrained {name}: {part or 'it'} cannot be opened ({reason(error)}); {remedy}")
