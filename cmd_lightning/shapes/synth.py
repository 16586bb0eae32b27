"""Write the procedural data set as shards."""

import math
from collections.abc import Callable
from pathlib import Path

from cmd_lightning.data.plan import stable_hash
from cmd_lightning.data.shard_writer import ShardWriter
from cmd_lightning.errors import InputError, check_at_least, check_positive
from cmd_lightning.shapes.painting import make_clip
from cmd_lightning.shapes.scenes import SHAPES, Level, Motion
from cmd_lightning.video_encoding import mp4_bytes


def write_shapes(
    folder: str | Path,
    *,
    num: int,
    size: int = 64,
    frames: int = 16,
    fps: float = 8.0,
    seed: int = 0,
    split: str = "train",
    level: Level = "plain",
    motion: Motion = "middle",
    shard_size: int = 1000,
    progress: Callable[[str], None] = lambda text: None,
) -> int:
    """Render `num` clips and write them as H.264, caption, and json with the truth about each; returns how many.

    The name of the split is mixed into the seed, so that splits differ; "train" shows only the seen combinations of
    shape, colour and direction, the others show all. `progress` gets a line after each shard.

    Raises:
        InputError: A number is out of range, a name is unknown, or the folder holds shards already.
    """
    check_positive(num=num, frames=frames)
    check_at_least(8, size=size)
    if size % 2:
        raise InputError(f"size {size}: must be even (H.264)")
    if not 0 < fps < math.inf:
        raise InputError(f"fps {fps}: must be a number above 0, e.g. 8")
    own_seed = stable_hash(seed, split)
    options = {"level": level, "motion": motion, "combinations": "seen" if split == "train" else "all"}
    with ShardWriter(folder, shard_size, classes=list(SHAPES)) as writer:
        for index in range(num):
            video, facts = make_clip(own_seed, index, frames=frames, fps=fps, size=size, **options)
            writer.write("mp4", mp4_bytes(video, fps, crf=12, preset="veryfast"), facts.pop("caption"), facts)
            if (index + 1) % shard_size == 0 or index + 1 == num:
                progress(f"{folder}: {index + 1} of {num} clips")
        return writer.samples
