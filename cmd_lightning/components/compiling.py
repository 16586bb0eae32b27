"""torch.compile for the networks of the components, in place: names and classes of their weights stay the same."""

from __future__ import annotations

from typing import Any

from torch import nn

from cmd_lightning.errors import InputError, reason
from cmd_lightning.networks.contracts import AutoencoderNetwork


def compile_network(network: nn.Module, options: bool | dict[str, Any], by_block: bool = False) -> None:
    """Has a network compiled when it first runs.

    Autoencoders are compiled a block (`_repeated_blocks`) at a time: they are entered by `encode` and `decode`, which
    torch.compile does not see.

    Args:
        network: What is compiled, in place. Weights may be copied into it, checkpoints and averages fit as before.
        options: Arguments of torch.compile, such as `mode` and `backend`; True for none.
        by_block: Compile other networks a block at a time as well: where what happens between the blocks is none of
            the compiler's business, as when their weights are sharded.

    Raises:
        InputError: torch.compile does not take the options, or the network names no blocks.
    """
    options = {} if options is True else options
    compiled: list[nn.Module] = [network]
    if by_block or isinstance(network, AutoencoderNetwork):
        names = getattr(network, "_repeated_blocks", None) or ()
        compiled = [module for module in network.modules() if type(module).__name__ in names]
        if not compiled:
            raise InputError(
                f"model.compile: {type(network).__name__} has no blocks to compile; leave model.compile out, or name "
                "their classes in its _repeated_blocks"
            )
    try:
        for module in compiled:
            module.compile(**options)
    except Exception as error:  # torch raises many kinds, also of its own
        raise InputError(f"model.compile {options}: give arguments of torch.compile; {reason(error)}") from error
