"""Frozen parts of a training module: neither averaged nor checkpointed."""

from __future__ import annotations

from typing import Any

import torch
from lightning import LightningModule
from torch import nn

from cmd_lightning.latent_space import LatentSpace


class FrozenParts(LightningModule):
    """A module with parts that are attributes on its device, but are not in its parameters or its state."""

    dtype: torch.dtype

    def __init__(self) -> None:
        super().__init__()
        self._frozen: dict[str, Any] = {}

    def keep_frozen(self, **parts: nn.Module | LatentSpace | None) -> None:
        """Adds parts by name, or replaces them; None changes nothing."""
        for part in parts.values():
            module = part.vae if isinstance(part, LatentSpace) else part
            if module is not None:
                module.requires_grad_(False).eval()
        self._frozen |= {name: part for name, part in parts.items() if part is not None}

    def setup(self, stage: str) -> None:
        """Reads the weights of frozen parts that have not been read yet."""
        for part in self._frozen.values():
            if hasattr(part, "open"):
                part.open()
                _ = part.fingerprint  # computed now and kept, as a change of precision changes the weights

    def __getattr__(self, name: str) -> Any:
        part = self.__dict__.get("_frozen", {}).get(name)
        if part is None:
            return super().__getattr__(name)
        module = part.vae if isinstance(part, LatentSpace) else part
        weight = None if module is None else next(module.parameters(), None)
        if weight is not None and (weight.device, weight.dtype) != (self.device, self.dtype):
            nn.Module.to(module, self.device, self.dtype)  # not that of diffusers, which warns if a dtype is given
        return part
