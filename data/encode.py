"""EncodingData: the clips of whole shards, in chunks, for whoever encodes them.

The unit of work is the shard. Rank r of W takes shards r, r + W, ... of all that are given, whatever is done already,
so that ranks need not communicate; each of its loader's workers takes whole shards too.
"""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from lightning import LightningDataModule
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from cmd_lightning.data.cache import ShardCache
from cmd_lightning.data.clips import BadSample, SampleLoader, collate, read_facts
from cmd_lightning.data.index import Shard, load_index, place_of, shard_names
from cmd_lightning.data.loader import leave_signals
from cmd_lightning.data.plan import clip_draw
from cmd_lightning.data.watchdog import Watchdog
from cmd_lightning.errors import InputError


@dataclass(eq=False)
class WholeShards(IterableDataset):
    """Chunks of clips of whole shards, in the order of their samples, for a DataLoader with `batch_size=None`.

    A chunk is a batch of video, with "fps" a list; "shard", the name of the shard; "epoch", a list of k for each clip,
    which is the one that training sees in epoch k; and "facts", the json of each sample as text. After the last chunk
    of a shard comes {"shard": name, "bad": {reason: number}}, with "error", the reason, where the shard could not be
    read to its end. A sample with any bad clip is bad as a whole; chunks may hold the clips before it.
    """

    clips: SampleLoader
    clips_per_video: int
    batch_size: int  # of a chunk, at most
    seed: int  # of the random choices of the clips, as in training
    remote: ShardCache
    shards: Sequence[Shard] = ()
    _watchdog: Watchdog = field(default_factory=Watchdog)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        info = get_worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        for shard in self.shards[worker::workers]:
            name = {"shard": place_of(shard.url).name}
            bad = Counter(shard.bad.values())
            end: dict[str, str] = {}
            try:
                for chunk in self._chunks(shard, bad):
                    yield chunk | name
            except InputError as error:  # it cannot be fetched
                end["error"] = str(error)
            except OSError as error:
                end["error"] = f"{shard.url}: {error.strerror or error}"
            yield name | {"bad": dict(bad)} | end

    def _chunks(self, shard: Shard, bad: Counter[str]) -> Iterator[dict[str, Any]]:
        with shard.open(self.remote) as file:
            clips: list[dict[str, Any]] = []
            [name] = shard_names([shard.url])
            for found in shard.usable(file):
                sample = replace(found, key=f"{name}/{found.key}")  # as in training
                try:
                    members = sample.read()
                    facts = json.dumps(read_facts(members), ensure_ascii=False)
                    for epoch in range(self.clips_per_video):
                        with self._watchdog.watch(sample.place):
                            clip = self.clips(members, clip_draw(self.seed, epoch, sample.key), epoch)
                        clips.append(clip | {"epoch": epoch, "facts": facts})
                        if len(clips) == self.batch_size:
                            yield _chunk(clips)
                            clips = []
                except BadSample as why:
                    bad[str(why)] += 1
            if clips:
                yield _chunk(clips)


def _chunk(clips: Sequence[dict[str, Any]]) -> dict[str, Any]:
    # The rate is a list, as a Trainer of half precision would round a tensor.
    return collate(clips) | {name: [clip[name] for clip in clips] for name in ("epoch", "facts", "fps")}


class EncodingData(LightningDataModule):
    """The chunks of this rank's part of all shards, `urls`, without shards that the folder `out` has already."""

    def __init__(self, urls: Sequence[str], out: Path, chunks: WholeShards, workers: int) -> None:
        super().__init__()
        self.urls, self.out, self.chunks, self.workers = list(urls), out, chunks, workers

    def predict_dataloader(self) -> DataLoader:
        assert self.trainer is not None  # Lightning sets it before
        own = self.urls[self.trainer.global_rank :: self.trainer.world_size]
        left = [url for url in own if not (self.out / place_of(url).name).exists()]
        return DataLoader(
            replace(self.chunks, shards=load_index(left, count=False, remote=self.chunks.remote)),
            batch_size=None,
            num_workers=min(self.workers, len(left)),
            worker_init_fn=leave_signals,
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator(),  # starting workers must not move the global one
        )
