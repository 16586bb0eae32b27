"""Load libraries and models with a message, and faster."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

from cmd_lightning.progress import progress


@contextmanager
def loading(what: str) -> Iterator[None]:
    """Shows in a terminal that something is loaded, and imports faster.

    Imports create millions of objects and hardly any garbage. Python's garbage collector, which inspects them again and
    again, takes a fifth of the time of importing torch, diffusers and transformers, so it is disabled meanwhile. The
    objects of the first load stay until the process ends, so the collector skips them: one inspection takes 0.3 s.

    Args:
        what: Name of what is loaded, such as a model.
    """
    collecting = gc.isenabled()
    gc.disable()
    try:
        with progress(f"loading {what}"):
            yield
    finally:
        if collecting:
            if not gc.get_freeze_count():
                gc.freeze()
            gc.enable()
