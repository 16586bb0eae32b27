"""TorchScript: weights that come as a program, which is opened only if its author is trusted."""

from __future__ import annotations

import warnings
import zipfile
from functools import reduce
from pathlib import Path
from typing import Any, BinaryIO

import torch

from cmd_lightning.errors import InputError

UNTRUSTED = (
    "TorchScript of unknown origin is a program that would be run; give a state dict, or if you trust its author "
    "`trust_torchscript`, as in {call}(..., trust_torchscript=True)"
)
"""What is wrong, and the remedy; `call` is the function that takes the argument."""


def is_torchscript(file: Path | BinaryIO) -> bool:
    """Whether a file is an archive of TorchScript: constants in its root, as torch asks for, and code.

    Whatever else a file holds, it is for `torch.load` with `weights_only=True`, which runs nothing.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError):  # of archives that are broken in one way or another
        return False
    root = names[0].partition("/")[0] if names else ""
    return f"{root}/constants.pkl" in names and any(name.startswith(f"{root}/code/") for name in names)


def load_torchscript(file: Path | BinaryIO) -> torch.jit.ScriptModule:
    """Open a trusted archive on the CPU, by the interpreter of TorchScript and never by pickle."""
    with warnings.catch_warnings(action="ignore", category=FutureWarning):  # that TorchScript is deprecated
        return torch.jit.load(file, map_location="cpu")


@torch.no_grad()
def set_script_eps(script: torch.jit.ScriptModule, eps: float) -> None:
    """As `set_batch_norm_eps`. Epsilon is a constant there, so the difference is added to the variance instead."""
    # The graph tells both of scripted and of traced networks, and of batch norms that are not separate modules.
    network: Any = script  # torch does not type what is within
    graph = network.inlined_graph  # its nodes live as long as it does
    shifts: dict[tuple[str, ...], float] = {}
    for node in graph.findAllNodes("aten::batch_norm"):
        _, _, _, _, variance, _, _, baked, _ = node.inputs()
        path = _path(baked)
        shifts[_path(variance)] = eps - (reduce(getattr, path, network) if path else baked.toIValue())
    if not shifts or () in shifts:
        raise InputError(
            f"batch_norm_eps {eps:g}: the TorchScript network does not show its batch norms, to which it would apply; "
            "set batch_norm_eps=none to take them as they are, or give a plain state dict"
        )
    for path, shift in shifts.items():
        reduce(getattr, path, network).add_(shift)


def _path(value: Any) -> tuple[str, ...]:
    """Names that lead from the network to what a value of its graph holds; empty if it is no attribute."""
    names, node = [], value.node()
    while node.kind() == "prim::GetAttr":
        names.append(node.s("name"))
        node = next(node.inputs()).node()
    return tuple(reversed(names)) if node.kind() == "prim::Param" else ()
