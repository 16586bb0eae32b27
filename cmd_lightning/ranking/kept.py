"""Where the scores of a seed are kept: under a fingerprint of all that they depend on, the code included."""

from __future__ import annotations

import ast
import hashlib
import inspect
from collections.abc import Iterable
from pathlib import Path

from torch import nn

import cmd_lightning
from cmd_lightning.ranking.candidate import Candidate
from cmd_lightning.ranking.protocol import Protocol, digest

CODE = (
    *("callbacks/ema.py", "components/*.py", "diffusion/*.py", "metrics/*.py", "networks/*.py", "pipeline.py"),
    *("ranking/captions.py", "ranking/latents.py", "ranking/score.py", "ranking/train.py"),
)
"""What trains, samples and scores, within the package."""
LIBRARIES = ("abc", "builtins", "diffusers", "huggingface_hub", "torch", "typing")
"""Packages whose version is in the card, and not in the fingerprint."""


def key_of(model: Candidate, network: nn.Module, protocol: Protocol, bench_key: str) -> str:
    """A fingerprint of model, code, protocol and clips."""
    root = Path(cmd_lightning.__path__[0])
    code = executed(file for pattern in CODE for file in root.glob(pattern))
    made = {"source": source_of(network), "code": code, "bench": bench_key}
    return digest({**model.record, **protocol.record, **made})


def source_of(network: nn.Module) -> str:
    """A fingerprint of the files of all classes that a network is made of, including those they inherit from."""
    classes = {cls for module in network.modules() for cls in type(module).__mro__}
    own = [cls for cls in classes if cls.__module__.partition(".")[0] not in LIBRARIES]
    files = {Path(file) for cls in own if (file := inspect.getsourcefile(cls))}
    return executed(file for file in files if file.is_file())


def executed(files: Iterable[Path]) -> str:
    """The sha256 of what runs in Python files: docstrings, comments and formatting make no difference."""
    digest = hashlib.sha256()
    for path in sorted(files):
        tree = Executed().visit(ast.parse(path.read_bytes()))
        digest.update(ast.dump(tree, annotate_fields=False).encode())
    return digest.hexdigest()


class Executed(ast.NodeTransformer):
    """Leaves out statements that are only a text: docstrings, and those after a constant."""

    def visit_Expr(self, node: ast.Expr) -> ast.Expr | None:
        """Keeps all expressions but constants."""
        return None if isinstance(node.value, ast.Constant) else node
