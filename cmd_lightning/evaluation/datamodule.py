"""EvaluationData: two sets of clips, every clip once whatever the number of processes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from lightning import LightningDataModule
from torch.utils.data import DataLoader

from cmd_lightning.data.clips import collate
from cmd_lightning.errors import InputError
from cmd_lightning.evaluation.sources import ClipSource


class EvaluationData(LightningDataModule):
    """Batches {"real": batch} and then {"fake": batch}, or of pairs with both; batches are those of `collate`.

    Each process takes every k-th clip. Nothing is repeated to make their numbers equal: a repeated clip would count
    twice.

    Args:
        real, fake: Real and generated clips.
        captions: Of all clips of the source of `fake`, in its order; None for those that it has.
        paired: Whether clips of `fake` and `real` are paired; `pair` then chooses the clips of `fake`.
        batch_size, workers: Clips in a batch, and loader processes, per process.

    Attributes:
        by_order: Whether clips are paired by their order, since no name is on both sides.

    Raises:
        InputError: A clip has no partner.
    """

    def __init__(
        self,
        real: ClipSource | None = None,
        fake: ClipSource | None = None,
        captions: Sequence[str] | None = None,
        paired: bool = False,
        batch_size: int = 16,
        workers: int = 0,
    ) -> None:
        super().__init__()
        self.real, self.fake, self.captions = real, fake, captions
        self.paired, self.batch_size, self.workers = paired, batch_size, workers
        self.by_order = False
        if paired and fake is not None:
            if real is None:
                raise InputError("metrics psnr, ssim, lpips: they compare pairs of clips; give real ones, too")
            self.by_order = not pair(real, fake)
        # A process may have no clip of a side: metrics put together what the others have.
        self.allow_zero_length_dataloader_with_multiple_devices = True

    def test_dataloader(self) -> list[DataLoader]:
        given = {side: source for side, source in (("real", self.real), ("fake", self.fake)) if source is not None}
        return list(map(self._loader, [given] if self.paired else [{side: given[side]} for side in given]))

    def _loader(self, sources: dict[str, ClipSource]) -> DataLoader:
        assert self.trainer is not None  # Lightning sets it before
        number = len(next(iter(sources.values())))
        return DataLoader(
            range(self.trainer.global_rank, number, self.trainer.world_size),  # type: ignore[arg-type]  # a map-style set
            self.batch_size,
            num_workers=self.workers,
            collate_fn=partial(read_batch, sources, self.captions),
            generator=torch.Generator(),  # starting workers must not move the global one
        )


def pair(real: ClipSource, fake: ClipSource) -> bool:
    """Choose for each chosen clip of `real` its partner in `fake`, by name or else by order; return whether by name.

    Names are paths within a folder without suffix, or keys in shards. If no path is on both sides, but file names are,
    these count.

    Raises:
        InputError: A clip has no partner by name; or no name is on both sides, and one has more clips.
    """
    for name_of in (str, lambda key: key.rpartition("/")[2]):
        originals, places = ({name_of(key): i for i, key in enumerate(x.all_keys)} for x in (real, fake))
        unique = len(originals) == real.of and len(places) == fake.of
        if not (unique and originals.keys() & places.keys()):
            continue
        lonely = [
            f"{len(names)} of {source.path} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
            for source, own, others in ((real, originals, places), (fake, places, originals))
            if (names := [name for name in own if name not in others])
        ]
        if lonely:
            problem = f"these have no partner: {' and '.join(lonely)}"
            raise InputError(f"metrics psnr, ssim, lpips: {problem}; rename them, or remove them")
        fake.take([places[name_of(key)] for key in real.keys])
        return True
    if real.of != fake.of:
        numbers = f"{real.of} real clips and {fake.of} generated ones cannot be paired"
        raise InputError(f"metrics psnr, ssim, lpips: {numbers}; give as many, or the same names")
    fake.take(real.chosen)
    return False


def read_batch(
    sources: dict[str, ClipSource], captions: Sequence[str] | None, items: Sequence[int]
) -> dict[str, dict[str, Any]]:
    """The clips of these numbers as a batch of each side, see `collate`, with the captions put in.

    Where a clip cannot be read, the batch is {"error": text} for the main process to raise: raised here, it would come
    with the traceback of a worker, or end one of several processes before the others.
    """
    batch = {}
    for side, source in sources.items():
        try:
            clips = [source[item] for item in items]
            if captions is not None and side == "fake":
                clips = [clip | {"caption": captions[source.chosen[i]]} for clip, i in zip(clips, items, strict=True)]
            _expect_one_size(clips)
            batch[side] = collate(clips)
        except InputError as error:
            batch[side] = {"error": str(error)}
    return batch


def _expect_one_size(clips: Sequence[dict[str, Any]]) -> None:
    for clip in clips:
        one, other = clips[0]["video"].shape, clip["video"].shape
        if one != other:
            raise InputError(
                f"{clips[0]['key']} is {one[3]}x{one[2]}, {clip['key']} is {other[3]}x{other[2]}: "
                "give one size for all, as `size` 64"
            )
