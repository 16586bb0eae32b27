"""Files and folders that appear when they are complete, never half written."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """Give out a temporary name that becomes `path` when the block succeeds, and is removed if it fails."""
    folder = Path(tempfile.mkdtemp(prefix=".part-", dir=path.parent))
    try:
        temporary = folder / path.name
        yield temporary
        os.replace(temporary, path)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def is_same_file(path: Path, descriptor: int) -> bool:
    """Whether the path leads to the open file, and not to another one or none."""
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False
