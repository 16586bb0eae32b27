"""TorchScript: weights that come as a program, which is opened only if its author is trusted."""

from __future__ import annotations

import warnings
import zipfile
from pathlib import Path
from typing import BinaryIO

import torch

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
