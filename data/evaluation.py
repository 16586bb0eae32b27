"""EvaluationData: two sets of clips, every clip once whatever the number of processes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from lightning import LightningDataModule
from torch.utils.data import DataLoader

from cmd_lightning.data.clips import collate
from cmd_lightning.data.sources import ClipSource
from cmd_lightning.errors import InputError


class EvaluationData(LightningDataModule):
    """Batches {"real": batch} and then {"fake": batch}, or of pairs with both; batches are those of `collate`.

    Each process takes every k-th clip. Nothing is repeated to make their numbers equal: a repeated clip would count
    twice.

    Args:
        real: Real clips.
        fake: Generated clips.
        captions: Of all clips of the source of `fake`, in its order; None for those that it has.
        paired: Whether clip i of `fake` stands for clip i of `real`.
        batch_size: Clips in a batch, per process.
        workers: Loader processes, per process.
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
        if paired and fake is not None:
            if real is None:
                raise InputError("metrics psnr, ssim, lpips: they compare pairs of clips; give real ones, too")
            if real.of != fake.of or real.chosen != fake.chosen:
                raise InputError(
                    f"metrics psnr, ssim, lpips: {len(real)} of {real.of} real clips and {len(fake)} of {fake.of} "
                    "generated ones are no pairs; give as many of both, paired by the order of their names"
                )

        # A process may have no clip of a side: metrics put together what the others have.
        self.allow_zero_length_dataloader_with_multiple_devices = True

    def test_dataloader(self) -> list[DataLoader]:
        """The batches of this process."""
        given = {side: source for side, source in (("real", self.real), ("fake", self.fake)) if source is not None}
        together = [given] if self.paired else [{side: source} for side, source in given.items()]
        return [self._loader(sources) for sources in together]

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


def read_batch(
    sources: dict[str, ClipSource], captions: Sequence[str] | None, items: Sequence[int]
) -> dict[str, dict[str, Any]]:
    """The clips of these numbers as a batch of each side, see `collate`, with the captions put in.

    Where a clip cannot be read, the batch is {"error": text} for whoever takes it to raise: raised here, it would come
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
                "give one size for all, as 64 or 64x96"
            )
