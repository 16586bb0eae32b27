"""Write latent shards, as `latent_clips` reads them: one per shard of videos, of the same name, whole or not at all."""

import json
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from filelock import Timeout
from torch import Tensor

from cmd_lightning.atomic_files import held, replaced
from cmd_lightning.data.bad_samples import describe
from cmd_lightning.data.classes import Classes
from cmd_lightning.data.clips import LATENT_SUFFIX, BadSample
from cmd_lightning.data.index import load_index, update_index
from cmd_lightning.data.latent_clips import check_finite
from cmd_lightning.data.shard_writer import tar_writer
from cmd_lightning.errors import InputError

SETTINGS_NAME = "encode.json"


def claim_folder(folder: Path, settings: dict[str, Any], about: dict[str, Any]) -> None:
    """Make the folder of latent shards, or check that those in it were made with the same settings.

    `encode.json` in it keeps the settings, which are all that the latents depend on, and the further facts `about` the
    first run.
    """
    path = folder / SETTINGS_NAME
    if not path.exists():
        if folder.exists() and (not folder.is_dir() or any(folder.glob("[!.]*.tar"))):
            raise InputError(f"out {folder}: it holds other shards, or is a file; give another")
        folder.mkdir(parents=True, exist_ok=True)
        with replaced(path) as draft:
            draft.write_text(json.dumps({"settings": settings} | about, indent=1) + "\n")
        return
    try:
        known = json.loads(path.read_bytes())["settings"]
        differing = [name for name in settings if known.get(name) != settings[name]]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"out {folder}: its {SETTINGS_NAME} is damaged; give another folder") from error
    if differing:
        found = ", ".join(f"{name} {_short(known.get(name))}, not {_short(settings[name])}" for name in differing)
        raise InputError(f"out {folder}: its shards were made with {found}; give the same again, or another `out`")


def index_latents(folder: Path, names: Sequence[str], classes: Classes) -> int:
    """Write the index of those of the named latent shards that are there; returns the number of their samples."""
    shards = load_index([str(folder / name) for name in names if (folder / name).exists()])
    update_index(folder, shards, classes.names, classes.number)
    return sum(shard.good for shard in shards)


class LatentStore:
    """Writes encoded clips as samples of shards.

    A shard is written to a hidden part file, which gets its name when it is complete. Another process that writes the
    same one is an error; what a killed process left is written over.

    Attributes:
        summary: What was done: "samples" and "shards" numbers, "bad" by reason, "failed" shards and why.
    """

    def __init__(
        self,
        folder: Path,
        dtype: torch.dtype,
        clips_per_video: int,
        made_by: Mapping[str, str | None],
        progress: Callable[[str], None] = lambda text: None,
    ) -> None:
        self._folder, self._dtype, self._clips_per_video = folder, dtype, clips_per_video
        self._made_by, self._progress = dict(made_by), progress
        self._open: dict[str, _Part] = {}
        self.summary: dict[str, Any] = {"samples": 0, "shards": 0, "bad": Counter(), "failed": {}}

    def take(self, chunk: dict[str, Any], encoded: dict[str, Any]) -> None:
        """Keep what was encoded of a chunk of `WholeShards`, or end its shard.

        `encoded` has "latents" of the clips by name, and "text" of those that are the first of their video, by
        fingerprint and part; nothing at the end of a shard.
        """
        name = chunk["shard"]
        part = self._open[name] = self._open.get(name) or _Part(self._folder / name)
        if "bad" in chunk:
            self._end(part, chunk)
            return
        latents = {kind: tensor.to("cpu", self._dtype) for kind, tensor in encoded["latents"].items()}
        text = {
            f"text.{encoder}.{kind}": tensor.to("cpu", tensor.dtype if kind == "mask" else self._dtype)
            for encoder, parts in encoded["text"].items()
            for kind, tensor in parts.items()
        }
        texts = 0
        for i, epoch in enumerate(chunk["epoch"]):
            if epoch == 0:  # the one before, if it lacks clips by now, is bad: its reader has counted it
                own_text = {kind: tensor[texts] for kind, tensor in text.items()}
                key, caption, facts, fps = (chunk[name][i] for name in ("key", "caption", "facts", "fps"))
                own_key = key.partition("/")[2]  # without the name of the shard
                part.sample = _Sample(own_key, caption, facts, fps, own_text)
                texts += 1
            part.sample.clips.append({kind: tensor[i] for kind, tensor in latents.items()})
            if len(part.sample.clips) == self._clips_per_video:
                part.write(self._made_by)

    def abandon(self) -> None:
        for part in self._open.values():
            part.close(keep=False)
        self._open.clear()

    def _end(self, part: "_Part", end: dict[str, Any]) -> None:
        bad = Counter(end["bad"]) + part.bad
        del self._open[end["shard"]]
        if "error" in end:
            self.summary["failed"][end["shard"]] = end["error"]
            self._progress(f"{end['shard']}: not encoded, {end['error']}")
            part.close(keep=False)
            return
        part.close(keep=True)
        self.summary["samples"] += part.samples
        self.summary["shards"] += 1
        self.summary["bad"] += bad
        left_out = f"; left out: {describe(bad)}" if bad else ""
        self._progress(f"{end['shard']}: {part.samples} samples{left_out}")


@dataclass
class _Sample:
    """A sample in the making: what is said of its video, and the clips so far."""

    key: str
    caption: str
    facts: str
    fps: float
    text: dict[str, Tensor]
    clips: list[dict[str, Tensor]] = field(default_factory=list)

    def members(self, made_by: dict[str, str | None]) -> dict[str, bytes]:
        """The bytes of its members by suffix; raises `BadSample` where latents are not finite."""
        from safetensors.torch import save

        tensors = {kind: torch.stack([clip[kind] for clip in self.clips]) for kind in self.clips[0]} | self.text
        check_finite(tensors)
        facts = json.loads(self.facts) | {"fps": self.fps, "made_by": made_by}
        return {
            LATENT_SUFFIX: save({kind: tensor.contiguous() for kind, tensor in tensors.items()}),
            "txt": self.caption.encode("utf-8", "replace"),
            "json": json.dumps(facts, ensure_ascii=False).encode("utf-8", "replace"),
        }


class _Part:
    """A shard being written: the file, and the sample in the making."""

    sample: _Sample

    def __init__(self, path: Path) -> None:
        self._path, self._hidden = path, path.with_name(f".part-{path.stem}")
        self._alone = ExitStack()
        try:
            self._alone.enter_context(held(path.with_name(f".lock-{path.stem}"), timeout=0))
        except Timeout as error:
            raise InputError(f"out {path.parent}: another process is writing {path.name}; let it end") from error
        self._file = open(self._hidden, "wb")  # noqa: SIM115  # closed by `close`
        self._tar = tar_writer(self._file)
        self.samples = 0
        self.bad: Counter[str] = Counter()

    def write(self, made_by: dict[str, str | None]) -> None:
        try:
            self._tar.write({"__key__": self.sample.key} | self.sample.members(made_by))
            self.samples += 1
        except BadSample as why:
            self.bad[str(why)] += 1

    def close(self, *, keep: bool) -> None:
        """Give the file its name, or remove it."""
        with self._alone:
            with self._file:
                if keep:
                    self._tar.close()
                    self._file.flush()
                    os.fsync(self._file.fileno())
            if keep:
                os.replace(self._hidden, self._path)
            else:
                self._hidden.unlink(missing_ok=True)


def _short(value: Any) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return text if len(text) <= 80 else text[:77] + "..."
