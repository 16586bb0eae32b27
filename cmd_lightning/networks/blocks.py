"""The blocks that a network repeats, which are compiled, or put together from shards, one after the other."""

from __future__ import annotations

from torch import nn


def blocks(module: nn.Module, *attributes: str) -> dict[str, nn.Module]:
    """The blocks within a module, outer before inner ones, by path.

    Args:
        module: It, or modules in it, have lists of names of classes.
        *attributes: In which they have them: `compat.REPEATED`, `compat.WHOLE`.
    """
    names = {name for part in module.modules() for key in attributes for name in getattr(part, key, None) or ()}
    return {path: part for path, part in module.named_modules() if type(part).__name__ in names}
