"""Networks of diffusers behind the contracts: a U-Net as the content model, and what the zoo's wrappers share."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor, nn

from cmd_lightning.errors import InputError, reason
from cmd_lightning.networks.classes import plain
from cmd_lightning.networks.contracts import ContentModel
from cmd_lightning.networks.latents import Condition
from cmd_lightning.networks.network import Network
from cmd_lightning.pretrained import Repository


def predict_content(
    network: nn.Module, content: Tensor, timestep: Tensor, condition: Condition | None, **options: Any
) -> Tensor:
    """The prediction of a `ContentModel` or a stock U-Net from a noisy content frame `(B, C, H, W)`.

    The U-Net stays the stock class, so that everything made for Stable Diffusion (LoRA, ControlNet, pipelines) opens
    it. `options` are further arguments of its `forward`, such as `cross_attention_kwargs`.
    """
    if isinstance(network, ContentModel):
        return network(content, timestep, condition)
    tokens = stock_tokens(network, content, condition)
    return network(content, timestep, encoder_hidden_states=tokens, return_dict=False, **options)[0]


def stock_tokens(network: nn.Module, content: Tensor, condition: Condition | None) -> Tensor:
    """What a stock U-Net attends to, `(B, L, K)`: as in Stable Diffusion all tokens, padding included, else zeros."""
    assert isinstance(network, UNet2DConditionModel), type(network)
    if condition is None:
        return content.new_zeros(len(content), 1, network.config["cross_attention_dim"])
    return condition.sequence()


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

    Raises:
        InputError: The stock class refuses the settings, or a network of them does not take the latent.
    """

    stock_class: ClassVar[Any]  # type checkers see placeholders of diffusers' classes
    part: ClassVar[str]
    published: ClassVar[dict[str, Any]] = {}
    stock: Any

    def __init__(
        self, latent: tuple[int, int, int, int], condition_dim: int, settings: dict[str, Any] | None = None
    ) -> None:
        super().__init__()
        self.condition_dim = condition_dim
        if len(latent) != 4 or min(latent) < 1:
            raise InputError(f"latent {tuple(latent)}: give a shape (C, T, H, W), each at least 1")
        arguments = self.published | self.fitting(latent, condition_dim or UNCONDITIONAL) | (settings or {})
        try:
            self.stock = self.stock_class(**arguments)
        except (ArithmeticError, AttributeError, LookupError, NotImplementedError, TypeError, ValueError) as error:
            raise InputError(
                f"settings {settings}: {self.stock_class.__name__} of diffusers does not take them ({reason(error)}); "
                "give arguments of that class"
            ) from error
        self.check_latent(tuple(latent))

    def check_latent(self, latent: tuple[int, ...]) -> None:
        """Raises an `InputError` where the stock network cannot take latents of that shape."""
        channels = self.fits(self.stock.config)[0][0]
        name = f"{type(self).__name__}, as it is set or opened"
        if latent[0] != channels:
            raise InputError(
                f"latent {latent}: {name}, has {channels} channels, not {latent[0]}; give {(channels, *latent[1:])}"
            )
        takes = self.frames(self.stock.config)
        if latent[1] not in takes:
            raise InputError(
                f"latent {latent}: {name}, takes {takes[0] if len(takes) == 1 else f'up to {takes[-1]}'} frames, not "
                f"{latent[1]}; give {(latent[0], takes[-1], *latent[2:])}"
            )

    @classmethod
    def fitting(cls, latent: tuple[int, int, int, int], condition_dim: int) -> dict[str, Any]:
        """Arguments of the stock class that follow from the latent and the condition, by default as of U-Nets."""
        channels = {"in_channels": latent[0], "out_channels": latent[0], "cross_attention_dim": condition_dim}
        return {"sample_size": latent[2]} | channels

    @classmethod
    def fits(cls, config: dict[str, Any]) -> tuple[tuple[int, int, int, int], int]:
        """The latent and the condition's channels of a stock config: the inverse of `fitting`."""
        size = config.get("sample_size") or 64
        return (config["in_channels"], config.get("video_length", 16), size, size), config["cross_attention_dim"]

    @classmethod
    def frames(cls, config: dict[str, Any]) -> range:
        """The numbers of frames that a network of that stock config takes."""
        return range(1, sys.maxsize)

    def forward(self, latent: Tensor, timestep: Tensor, condition: Condition | None) -> Tensor:
        return self.stock(latent, timestep, encoder_hidden_states=self.tokens(latent, condition), return_dict=False)[0]

    def tokens(self, latent: Tensor, condition: Condition | None) -> Tensor:
        """What the network attends to, `(B, L, K)`: all tokens, or the pooled vector, or one zero token."""
        if condition is None or not self.condition_dim:
            return latent.new_zeros(len(latent), 1, self.condition_dim or UNCONDITIONAL)
        return condition.sequence().to(latent.dtype)

    @classmethod
    def from_pretrained(  # type: ignore[override]  # has an argument more
        cls, name: str | os.PathLike[str], latent: tuple[int, int, int, int] | None = None, **options: Any
    ) -> StockDenoiser:
        """Opens a folder that `save_pretrained` wrote, or published weights in diffusers' layout.

        Args:
            name: A folder or a hub id: of this network, of the stock network, or of a pipeline with it as a part.
            latent: Shape of the latents it shall work on; by default what the network was made for.
            **options: Of diffusers' `from_pretrained`, such as `variant`, `revision`, `torch_dtype`.

        Raises:
            InputError: There is nothing to open, another class's network, or one that does not take such latents.
        """
        wanted = (cls.__name__, cls.stock_class.__name__)
        source = Repository(str(name), options=options)
        holds, part = find(source, cls.part, wanted)
        if holds == cls.__name__:
            network = source.read(super().from_pretrained, part)
            return network if latent is None else cls.around(network.stock, latent, network.condition_dim)
        return cls.around(source.read(cls.stock_class.from_pretrained, part), latent)

    @classmethod
    def around(
        cls, stock: Any, latent: tuple[int, int, int, int] | None = None, condition_dim: int | None = None
    ) -> StockDenoiser:
        """The wrapper of a stock network; what is None is as in the stock network's config."""
        settings = {key: plain(value) for key, value in stock.config.items() if not key.startswith("_")}
        found, channels = cls.fits(settings)
        with torch.device("meta"):  # only what it records is kept
            network = cls(latent or found, channels if condition_dim is None else condition_dim, settings)
        network.stock = stock
        return network.eval()


UNCONDITIONAL = 8  # channels of the one zero token that an unconditional network attends to


def find(source: Repository, part: str, wanted: Sequence[str]) -> tuple[str, str]:
    """Finds which of some classes a folder or hub repository holds, and where.

    Args:
        source: The folder or the repository; with an option `subfolder`, only that is looked into.
        part: The folder in it to look into where it holds none of `wanted` itself.
        wanted: Names of the classes.

    Returns:
        The name of the class, and the folder in `source` that holds it, "" for `source` itself.

    Raises:
        InputError: There is no config, or it is of another class.
    """
    places = [source.options["subfolder"]] if "subfolder" in source.options else dict.fromkeys(("", part))
    found = [(str(config.get("_class_name")), place) for place in places if (config := source.find(place))]
    for holds, place in found:
        if holds in wanted:
            return holds, place
    what = f"it holds a {found[0][0]}" if found else "there is no config.json in it"
    whole = f", or of a pipeline that has it as {part}" if part else ""
    raise InputError(f"{source.option} {source.name}: {what}; give a folder or hub id of {' or '.join(wanted)}{whole}")
