"""Complete checkpoint files or none: written next to the old one, read back, and only then put in its place."""

from __future__ import annotations

import contextlib
import os
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from filelock import Timeout
from fsspec.implementations.local import LocalFileSystem
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.fabric.utilities.cloud_io import get_filesystem
from lightning_utilities.core.apply_func import apply_to_collection

from cmd_lightning.atomic_files import held
from cmd_lightning.errors import InputError, reason

GIGABYTE = 1e9


class WholeCheckpointIO(TorchCheckpointIO):
    """Writes and reads the checkpoints of a Trainer.

    The path always holds the complete old file or the complete new one, whatever ends a process while it saves (a
    signal, a full disk, the power). What is read is plain data and tensors; code in a file is rejected.

    A file is written as `.{name}.part` in the same folder, so that the next save overwrites what a killed one left.

    Args:
        mmap: Whether tensors of a file on a disk are read as they are used, by all processes of a machine together.
    """

    def __init__(self, mmap: bool = False) -> None:
        super().__init__()
        self.mmap = mmap

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Puts `checkpoint` at `path`, in place of what is there; files elsewhere than on a disk are Lightning's."""
        if storage_options is not None or not isinstance(get_filesystem(path), LocalFileSystem):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        path = Path(os.path.realpath(path))  # a link stays, and leads to the new file
        part = path.with_name(f".{path.name}.part")
        before = f"the one before is intact: `ckpt_path` {path}; " if path.is_file() else ""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with _alone(part):
                with open(part, "wb") as file:
                    torch.save(checkpoint, file)
                    file.flush()
                    os.fsync(file.fileno())
                if fault := damage(part):
                    raise InputError(
                        f"checkpoint {path}: not written, it could not be read back ({fault}); {before}what is "
                        "added to checkpoints must be tensors and plain data, and the disk sound"
                    )
                os.replace(part, path)
            if hasattr(os, "O_DIRECTORY"):  # not on Windows
                folder = os.open(path.parent, os.O_RDONLY)
                try:
                    os.fsync(folder)  # a file system may keep the file and forget its new name
                finally:
                    os.close(folder)
        except InputError:
            raise
        except Exception as error:
            refusal: BaseException | None = error  # torch hides the system's error for a full disk behind another
            while refusal is not None and not isinstance(refusal, OSError):
                refusal = refusal.__cause__ or refusal.__context__
            if refusal is None:
                raise
            room = f"about {_size(checkpoint) / GIGABYTE:.3g} GB are needed"
            if path.parent.is_dir():
                room += f", {shutil.disk_usage(path.parent).free / GIGABYTE:.3g} GB are free"
            raise InputError(
                f"checkpoint {path}: it cannot be written ({refusal.strerror}); {room}; {before}"
                "make room, or choose another folder"
            ) from error

    def load_checkpoint(
        self, path: str | Path, map_location: Any = "cpu", weights_only: bool | None = True
    ) -> dict[str, Any]:
        """The checkpoint at `path`, all of its bytes checked; no code in it runs, whatever `weights_only` is."""
        local = Path(path).is_file()
        if local and (fault := damage(Path(path))):
            raise InputError(
                f"checkpoint {path}: it is damaged or no checkpoint ({fault}); "
                "give another one, or remove it to start from scratch"
            )
        if local and self.mmap:
            return torch.load(path, map_location, weights_only=True, mmap=True)
        return super().load_checkpoint(path, map_location, weights_only=True)


def damage(path: Path) -> str | None:
    """What is wrong with a checkpoint's file, by its checksums and by opening it; None if it is sound."""
    try:
        with zipfile.ZipFile(path) as archive:
            if bad := archive.testzip():
                return f"wrong checksum of {bad}"
        torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # torch and zipfile raise many kinds
        return reason(error)
    return None


@contextlib.contextmanager
def _alone(part: Path) -> Iterator[None]:
    """Keeps other processes from writing a file; removes it in the end, unless it got another name."""
    try:
        with held(part.with_suffix(".lock"), timeout=0):
            try:
                yield
            finally:
                with contextlib.suppress(OSError):  # no permission: the error that is being raised is enough
                    part.unlink(missing_ok=True)
    except Timeout as error:
        raise InputError(f"{part}: another run is writing it; give each run a separate folder") from error


def _size(value: Any) -> int:
    """The bytes of the tensors in nested plain data; shared ones, which are written once, counted once."""
    storages: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()

    apply_to_collection(value, torch.Tensor, note)
    return sum(storages.values())
