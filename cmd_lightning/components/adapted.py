"""Stages that train either all weights of their network or only low-rank adapters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cmd_lightning.components.checkpoints import KEY
from cmd_lightning.components.diffusion_stage import DiffusionStage
from cmd_lightning.errors import InputError
from cmd_lightning.networks.lora import LoRA
from cmd_lightning.provenance import fingerprint
from cmd_lightning.stable_diffusion import StableDiffusion


class AdaptedStage(DiffusionStage):
    """A stage that can train only adapters. Its checkpoints then contain these, and the name of their base.

    Attributes:
        lora: The adapters; None if all weights are trained.
    """

    lora: LoRA | None = None
    _adapted: dict[str, Any] | None = None  # the adapters and their base, as plain data

    def add_adapters(self, base: StableDiffusion) -> None:
        """Adds the adapters of `lora` to the network, which has the weights of `base`."""
        assert self.lora is not None
        name = str(Path(base.name).resolve()) if Path(base.name).is_dir() else base.name
        source = {"name": name, "variant": base.variant, "revision": base.revision}
        own = fingerprint(self.network.state_dict())
        self._adapted = {"base": source, "fingerprint": own, "lora": self.lora.plain()}
        self.lora.add_to(self.network)
        self.strict_loading = False  # a checkpoint of adapters leaves out the frozen weights of `base`

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        if self._adapted is None:
            return
        checkpoint[KEY]["lora"] = self._adapted
        trained = {f"network.{name}" for name, weight in self.network.named_parameters() if weight.requires_grad}
        for name in [name for name in checkpoint["state_dict"] if name.startswith("network.") and name not in trained]:
            del checkpoint["state_dict"][name]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        kept, own = checkpoint[KEY].get("lora"), self._adapted
        for name in ("lora", "fingerprint"):
            if (kept or {}).get(name) != (own or {}).get(name):
                raise InputError(
                    f"`ckpt_path`: it was trained with {'all weights' if kept is None else kept}, this run is for "
                    f"{'all weights' if own is None else own}; set model.lora and the base to that, or train from "
                    "scratch without `ckpt_path`"
                )
