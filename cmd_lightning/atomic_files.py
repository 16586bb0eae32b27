"""Files and folders that appear when they are complete, never half written."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_PREFIX = ".part-"
_STREAMS = [["dev", name] for name in ("stdin", "stdout", "stderr")]


@contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """Give out a temporary name that becomes `path` when the block succeeds, and is removed if it fails.

    A file keeps its permissions. A symbolic link stays, and what it leads to is replaced. What is neither a file nor a
    folder, as a device or a pipe, is never replaced: the bytes are written into it. Errors of the disk, as of a full
    one or a folder that cannot be written, name `path`.
    """
    through = is_channel(path)
    target = path if through else Path(os.path.realpath(path))
    folder: Path | None = None
    try:
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=None if through else target.parent))
        temporary = folder / path.name
        yield temporary
        if through:
            with open(temporary, "rb") as source, open(target, "wb") as channel:
                shutil.copyfileobj(source, channel)
            return
        if target.is_file():
            shutil.copymode(target, temporary)
        os.replace(temporary, target)
    except OSError as error:
        if error.errno is not None and (error.filename is None or _PREFIX in str(error.filename)):
            raise OSError(error.errno, error.strerror, str(path)) from error  # PyAV's do not let their file be changed
        raise
    finally:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


def is_channel(path: Path) -> bool:
    """Whether what is at `path` is written into, and not replaced: a device, a pipe, a socket, an open file."""
    _, *parts = path.absolute().parts
    if parts[:1] == ["proc"] or parts[:2] == ["dev", "fd"] or parts in _STREAMS:  # what they lead to may be a file
        return True
    return path.exists() and not (path.is_file() or path.is_dir())


@contextmanager
def held(lock: Path, timeout: float = -1) -> Iterator[None]:
    """Hold a lock file, which no other process holds then; the system lets go of it when the process ends in any way.

    Args:
        lock: A file that is for this alone; it is removed in the end.
        timeout: Seconds to wait; below 0 without end.

    Raises:
        filelock.Timeout: Another process holds it, or another thread; a `TimeoutError`.
    """
    from filelock import FileLock

    with FileLock(lock, timeout, poll_interval=0.02):
        try:
            yield
        finally:
            with suppress(OSError):  # Windows keeps it while it is open; who opened it before will not take it for held
                lock.unlink()
