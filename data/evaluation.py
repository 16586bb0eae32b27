"""EvaluationData: two sets of clips, every clip once whatever the number of processes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from lightning import LightningDataModule
from torch.utils.data import DataLoader, Dataset, Subset

from cmd_lightning.data.sources import ClipSource, collate
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
        batch_size: Clips in a batch of one process.
        workers: Processes that read, for each process.

    Raises:
        InputError: Pairs are asked of sets of different numbers.
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
                raise InputError("--metrics psnr, ssim, lpips: they compare pairs of clips; give real ones by --real")
            if real.of != fake.of or real.chosen != fake.chosen:
                raise InputError(
                    f"--metrics psnr, ssim, lpips: {len(real)} of {real.of} real clips and {len(fake)} of {fake.of} "
                    "generated ones are no pairs; give as many of both, paired by the order of their names"
                )

        # A process may have no clip of a side: metrics put together what the others have.
        self.allow_zero_length_dataloader_with_multiple_devices = True

    def test_dataloader(self) -> list[DataLoader]:
        """The batches of this process."""
        given = {side: source for side, source in (("real", self.real), ("fake", self.fake)) if source is not None}
        if self.paired:
            return [self._loader(given)]
        return [self._loader({side: source}) for side, source in given.items()]

    def _loader(self, sources: dict[str, ClipSource]) -> DataLoader:
        sides = Sides(sources, self.captions)
        own = range(self.trainer.global_rank, len(sides), self.trainer.world_size)
        return DataLoader(
            Subset(sides, own),
            self.batch_size,
            num_workers=self.workers,
            collate_fn=collate_sides,
            generator=torch.Generator(),  # starting workers must not move the global one
        )


class Sides(Dataset):
    """Items of one source or of both, by side, with the captions put in."""

    def __init__(self, sources: dict[str, ClipSource], captions: Sequence[str] | None) -> None:
        self.sources, self.captions = sources, captions

    def __len__(self) -> int:
        """Number of clips of each side."""
        return len(next(iter(self.sources.values())))

    def __getitem__(self, item: int) -> dict[str, dict[str, Any]]:
        """The clips of a number."""
        items = {side: kept_error(source.__getitem__, item) for side, source in self.sources.items()}
        if self.captions is not None and "fake" in items:
            items["fake"]["caption"] = self.captions[self.sources["fake"].chosen[item]]
        return items


def collate_sides(items: Sequence[dict[str, dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    """A batch of each side, see `collate`; or {"error": text} of the first clip that has one."""
    batch = {}
    for side in items[0]:
        clips = [item[side] for item in items]
        batch[side] = next((clip for clip in clips if "error" in clip), None) or kept_error(collate, clips)
    return batch


def kept_error(step: Callable[[Any], dict[str, Any]], argument: Any) -> dict[str, Any]:
    """What a step gives, or {"error": text} for whoever takes the batch to raise.

    Raised here it would come with the traceback of a worker, or end one of several processes before the others.
    """
    try:
        return step(argument)
    except InputError as error:
        return {"error": str(error)}
