"""torch.compile for the networks of the components, in place: names and classes of their weights stay the same."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from cmd_lightning.compat import REPEATED
from cmd_lightning.errors import InputError, reason
from cmd_lightning.networks.contracts import AutoencoderNetwork
from cmd_lightning.networks.network import Network


def compile_network(network: nn.Module, options: bool | dict[str, Any], by_block: bool = False) -> None:
    """Has a network compiled when it first runs; with gradient checkpointing, where that is on already.

    Networks of this project are compiled a block (`_repeated_blocks`) at a time: one block stands for all of its kind,
    and autoencoders have two entries. Others, such as Stable Diffusion's U-Net, are compiled as a whole, unless
    `by_block`: weights in shards are put together between blocks. `options` are those of torch.compile, True for none.
    """
    options = options if isinstance(options, dict) else {}
    found = blocks(network, REPEATED)
    try:
        if by_block or (isinstance(network, Network) and found):
            compile_blocks(network, found, options)
        else:
            found = {} if isinstance(network, AutoencoderNetwork) else {"": network}
            for module in found.values():
                module.compile(**options)
    except Exception as error:  # torch raises many kinds, also private ones
        raise InputError(f"model.compile {options}: give arguments of torch.compile; {reason(error)}") from error
    if not found:
        raise InputError(
            f"model.compile: {type(network).__name__} has no blocks to compile; leave model.compile out, or name "
            "their classes in its _repeated_blocks"
        )


def blocks(module: nn.Module, *attributes: str) -> dict[str, nn.Module]:
    """The blocks in a module by path, outer ones first, whose classes it names in its `attributes`, as `REPEATED`."""
    names = {name for part in module.modules() for key in attributes for name in getattr(part, key, None) or ()}
    return {path: part for path, part in module.named_modules() if type(part).__name__ in names}


def compile_blocks(network: nn.Module, found: dict[str, nn.Module], options: dict[str, Any]) -> None:
    """Compiles what blocks compute, not what hooks do when they are called.

    Gradient checkpointing moves into the compiled code: if it called compiled code, it might get another graph for the
    backward pass than for the forward one (pytorch issue 166926).
    """
    compiled: dict[tuple[type, bool], Callable[..., Any]] = {}
    owners = {path: _checkpointing(network, path) for path in found}
    for path, block in found.items():
        owner = owners[path]
        kind = (type(block), owner is not None)
        if kind not in compiled:
            compiled[kind] = torch.compile(_computation(*kind), **options)
        block.forward = functools.partial(compiled[kind], block)
        if owner is not None:
            owner.gradient_checkpointing = False


def _computation(kind: type[nn.Module], recomputed: bool) -> Callable[..., Any]:
    """The forward pass of a block of a class, as a function of block and inputs."""
    own = kind.forward  # found here: dynamo finds nothing in classes that diffusers marks, such as the U-Net's blocks

    def compute(block: nn.Module, *inputs: Any, **named: Any) -> Any:
        def forward(*inputs: Any, **named: Any) -> Any:
            return own(block, *inputs, **named)

        if recomputed and torch.is_grad_enabled():
            return checkpoint(forward, *inputs, use_reentrant=False, **named)
        return forward(*inputs, **named)

    return compute


def _checkpointing(network: nn.Module, path: str) -> Any:
    """The innermost module around the one at `path` that can recompute its parts, if it does."""
    while path:
        path = path.rpartition(".")[0]
        module = network.get_submodule(path)
        if hasattr(module, "gradient_checkpointing"):
            return module if module.gradient_checkpointing else None
    return None
