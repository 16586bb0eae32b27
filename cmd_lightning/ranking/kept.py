"""Where the scores of a seed are kept: under a fingerprint of all that they depend on, the code included."""

from __future__ import annotations

import inspect
from pathlib import Path

from torch import nn

import cmd_lightning
from cmd_lightning.provenance import sha256
from cmd_lightning.ranking.candidate import Candidate
from cmd_lightning.ranking.protocol import Protocol, digest

CODE = ("callbacks/ema.py", "components/*.py", "diffusion/*.py", "metrics/*.py", "networks/*.py", "pipeline.py")
CODE += tuple(f"ranking/{name}.py" for name in ("captions", "latents", "score", "train"))
"""What trains, samples and scores, within the package."""
LIBRARIES = ("abc", "builtins", "diffusers", "huggingface_hub", "torch", "typing")
"""Packages of which a version stands in the card, and no fingerprint here."""


def key_of(model: Candidate, network: nn.Module, protocol: Protocol, bench_key: str) -> str:
    """A fingerprint of model, code, protocol and clips."""
    made = {"source": source_of(network), "code": code(), "bench": bench_key}
    return digest({**model.record, **protocol.record, **made})


def source_of(network: nn.Module) -> str:
    """The sha256 of the files of all classes that a network is made of, those that they inherit from included."""
    classes = {cls for module in network.modules() for cls in type(module).__mro__}
    own = [cls for cls in classes if cls.__module__.partition(".")[0] not in LIBRARIES]
    files = {inspect.getsourcefile(cls) for cls in own}
    return sha256(*sorted(file for file in files if file and Path(file).is_file()))


def code() -> str:
    """The sha256 of the package's own code."""
    root = Path(cmd_lightning.__path__[0])
    return sha256(*sorted(file for pattern in CODE for file in root.glob(pattern)))
