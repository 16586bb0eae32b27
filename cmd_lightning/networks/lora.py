"""Low-rank adapters on a Stable Diffusion U-Net, trained while its own weights stay as they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import Tensor

from cmd_lightning.errors import InputError


@dataclass
class LoRA:
    """What is trained in place of all weights.

    Args:
        rank: Of the change to each weight matrix.
        alpha: The change is scaled by alpha / rank; by default by 1.
        targets: The layers that change, by the ends of their names; by default the projections of all attentions.
    """

    rank: int = 16
    alpha: float | None = None
    targets: Sequence[str] = field(default_factory=lambda: ["to_q", "to_k", "to_v", "to_out.0"])

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise InputError(f"model.lora.rank {self.rank}: give at least 1")
        if self.alpha is None:
            self.alpha = float(self.rank)
        if self.alpha <= 0:
            raise InputError(f"model.lora.alpha {self.alpha:g}: give a number above 0")

    @property
    def scale(self) -> float:
        """What the change is multiplied by."""
        return (self.alpha or self.rank) / self.rank

    def add_to(self, network: Any) -> None:
        """Adds adapters, which change nothing at first, to a network of diffusers, and freezes all else."""
        try:
            from peft import LoraConfig
        except ImportError as error:
            raise InputError("model.lora: it needs peft; `pip install peft`, or leave lora out") from error
        network.requires_grad_(False)
        targets = list(self.targets)
        try:
            alpha: Any = self.alpha  # peft asks for an int, and computes with any number
            network.add_adapter(LoraConfig(r=self.rank, lora_alpha=alpha, target_modules=targets))
        except ValueError as error:
            raise InputError(f"model.lora.targets {targets}: the network has no such layers; {error}") from error

    def plain(self) -> dict[str, Any]:
        """This as plain data, for a checkpoint."""
        return asdict(self) | {"targets": list(self.targets)}


def public(weights: Mapping[str, Tensor], lora: LoRA) -> dict[str, Tensor]:
    """The weights of adapters in the layout that Stable Diffusion's tools read, `unet....to_q.lora_A.weight`.

    The scale goes into the weights, so that no reader needs to know `alpha`.
    """
    return {
        f"unet.{name.replace('.default.', '.')}": weight * (lora.scale if "lora_B" in name else 1.0)
        for name, weight in weights.items()
    }


def fold(network: Any, weights: Mapping[str, Tensor], lora: LoRA) -> None:
    """Adds what was trained, the `weights` of adapters by name, to a `network` with the weights of the base model."""
    lora.add_to(network)
    missing, unexpected = network.load_state_dict(weights, strict=False)
    if unexpected or any("lora_" in name for name in missing):
        raise InputError("model.lora: the checkpoint's adapters do not fit its network; was it made elsewhere?")
    network.fuse_lora()
    network.unload_lora()
