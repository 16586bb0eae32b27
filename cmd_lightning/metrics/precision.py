"""What keeps sums and networks in their own precision, whatever is done to the module around them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self

import torch
from torch import Tensor, nn

from cmd_lightning.compat import KeepsPrecision


@contextmanager
def single_precision(device: torch.device) -> Iterator[None]:
    """Within it float32 is float32: neither autocast nor TF32, which make distances differ between machines."""
    backends: Any = torch.backends  # torch's types know nothing of the parts
    units = (backends.cudnn.conv, backends.cuda.matmul, backends.mkldnn.conv, backends.mkldnn.matmul)
    before = [unit.fp32_precision for unit in units]
    try:
        for unit in units:
            unit.fp32_precision = "ieee"
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        for unit, precision in zip(units, before, strict=True):
            unit.fp32_precision = precision


@contextmanager
def float32_weights() -> Iterator[None]:
    """Within it networks are built in float32, whatever torch's default type is."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


class OwnPrecision(KeepsPrecision, nn.ModuleDict):
    """Modules by name that move with the module around them, and are not cast with it."""


class Frozen(KeepsPrecision):
    """A network in evaluation mode, without gradients, and in its own precision, also within a module that is trained,
    cast to half precision or run under autocast. Its attributes are those of the network.

    Args:
        network: Any; it is not copied.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network.eval()
        for parameter in network.parameters():  # TorchScript modules have no requires_grad_
            parameter.requires_grad_(False)

    @torch.no_grad()
    def forward(self, video: Tensor) -> Tensor:
        """What the network makes of clips, which are cast to its precision."""
        weight = next(self.network.parameters(), video)
        with single_precision(video.device):
            return self.network(video.to(weight.dtype))

    def __getattr__(self, name: str) -> Any:
        """Attributes that are not the wrapper's own."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name.startswith("__"):  # as __deepcopy__ of TorchScript, which would copy the network alone
                raise
            return getattr(super().__getattr__("network"), name)

    def train(self, mode: bool = True) -> Self:
        """Stays in evaluation mode."""
        return super().train(False)
