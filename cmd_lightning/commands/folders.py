"""Folders that are written whole or not at all, and model folders by name."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from cmd_lightning.errors import InputError

if TYPE_CHECKING:
    from cmd_lightning.pipeline import CMDPipeline


@contextmanager
def new_folder(path: Path, option: str) -> Iterator[Path]:
    """A temporary folder that becomes `path` when the block ends well, and vanishes when it does not.

    Raises:
        InputError: `path` exists and is not an empty folder.
    """
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise InputError(f"{option} {path}: it exists and is not empty; give a new folder, or remove it")
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    try:
        yield draft
        draft.chmod(0o755)  # mkdtemp makes it private
        os.replace(draft, path)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def open_model(model: str) -> CMDPipeline:
    """The pipeline of a model folder.

    Raises:
        InputError: There is no such folder.
    """
    if not Path(model).is_dir():
        raise InputError(
            f"MODEL {model}: there is no such folder; make one with `cmd-lightning export` or `cmd-lightning demo`"
        )
    from diffusers.utils import logging

    from cmd_lightning.pipeline import CMDPipeline

    logging.disable_progress_bar()  # of reading the parts, which takes a moment; that of the denoising steps stays
    pipeline = CMDPipeline.from_pretrained(model)
    import torch

    return pipeline.to("cuda" if torch.cuda.is_available() else "cpu")
