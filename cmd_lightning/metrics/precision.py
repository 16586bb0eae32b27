"""What keeps weights in their precision when the module around them is cast."""

from __future__ import annotations

from torch import nn

from cmd_lightning.compat import KeepsPrecision


class OwnPrecision(KeepsPrecision, nn.ModuleDict):
    """Modules by name that move with the module around them, and are not cast with it."""
