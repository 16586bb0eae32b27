"""Write shards: samples go into numbered tar files with an index, all of them or none."""

import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from webdataset import TarWriter

from cmd_lightning.data.index import Shard, update_index
from cmd_lightning.errors import InputError, check_positive


def split_folder(out: str | Path, split: str) -> Path:
    """The folder OUT/SPLIT; raises `InputError` for a split that leads out of OUT."""
    if Path(split).is_absolute() or ".." in Path(split).parts:
        raise InputError(f"split '{split}': leaves the folder {out}; use a plain name")
    return Path(out, split)


def tar_writer(file: BinaryIO) -> TarWriter:
    """Webdataset's writer of a shard, which gives the same bytes for the same samples."""
    return TarWriter(file, user="", group="", mode=0o644, mtime=0, encoder=False)


class ShardWriter:
    """Writes samples to `folder/000000.tar`, `000001.tar`, ... and `index.json`.

    Shards are written to a hidden folder and appear together when the block succeeds; a failed run or Ctrl-C leaves no
    files behind.

    Args:
        folder: Folder for the shards, created if needed; it must not hold shards yet.
        shard_size: Samples in a shard, at least 1.
        classes, num_classes: Names of the classes by label, and their number, for the index.
    """

    def __init__(
        self, folder: str | Path, shard_size: int = 1000, classes: Sequence[str] = (), num_classes: int = 0
    ) -> None:
        check_positive(shard_size=shard_size)
        self.folder, self.shard_size = Path(folder), shard_size
        self.classes, self.num_classes = classes, num_classes
        self.samples = 0
        self._file: BinaryIO | None = None
        if self.folder.exists() and (not self.folder.is_dir() or any(self.folder.glob("*.tar"))):
            raise InputError(f"{folder}: holds shards already, or is a file; choose another folder or remove them")

    def __enter__(self) -> "ShardWriter":
        self._made = [path for path in (self.folder, *self.folder.parents) if not path.exists()]
        self.folder.mkdir(parents=True, exist_ok=True)
        self._hidden = Path(tempfile.mkdtemp(prefix=".part-", dir=self.folder))
        return self

    def write(self, suffix: str, video: bytes, caption: str, about: dict[str, Any]) -> None:
        """Add a sample: a video file's suffix ("mp4", ...) and bytes, the caption, and further facts for the .json."""
        shard, number = divmod(self.samples, self.shard_size)
        if number == 0:
            self._close()
            self._file = open(self._hidden / f"{shard:06d}.tar", "wb")  # noqa: SIM115  # closed by _close
            self._tar = tar_writer(self._file)
        key = f"{shard:06d}{number:05d}"
        text = json.dumps({"key": key, "caption": caption, **about}, ensure_ascii=False)
        self._tar.write({"__key__": key, suffix: video, "txt": caption.encode(), "json": text.encode()})
        self.samples += 1

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._close()
        done = kind is None and self.samples > 0
        try:
            if done:
                self._publish()
        finally:
            shutil.rmtree(self._hidden, ignore_errors=True)
            if not done:
                for path in self._made:
                    with suppress(OSError):  # something else is in it by now
                        path.rmdir()

    def _publish(self) -> None:
        shards = []
        for first in range(0, self.samples, self.shard_size):
            path = self.folder / f"{first // self.shard_size:06d}.tar"
            os.replace(self._hidden / path.name, path)
            shards.append(Shard(str(path), min(self.shard_size, self.samples - first)))
        update_index(self.folder, shards, self.classes, self.num_classes)

    def _close(self) -> None:
        if self._file is not None:
            with self._file:
                self._tar.close()
            self._file = None
