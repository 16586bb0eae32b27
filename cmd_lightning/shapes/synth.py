"""Write the procedural data set as shards."""

import math
from collections.abc import Callable
from pathlib import Path

from cmd_lightning.data.plan import stable_hash
from cmd_lightning.data.shard_writer import ShardWriter
from cmd_lightning.errors import InputError
from cmd_lightning.shapes.painting import make_clip
from cmd_lightning.shapes.scenes import SHAPES, Level, Motion
from cmd_lightning.video_io import mp4_bytes


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
    """Make clips and write them: H.264, caption, and the truth about each as json.

    Args:
        folder: Where the shards go.
        num: Number of clips.
        size: Side in pixels, even (H.264).
        frames: Frames of a clip.
        fps: Frames per second.
        seed: Of the data set.
        split: Name that the seed is mixed with, so that splits differ; "train" shows only the seen combinations of
            shape, colour and direction, the others show all.
        level: Of the scenes, "plain" or "mixed".
        motion: How fast everything moves.
        shard_size: Clips in a shard.
        progress: Told a line now and then.

    Returns:
        The number of clips written.

    Raises:
        InputError: A number is out of range, a name is none of its kind, or the folder holds shards already.
    """
    for name, value, least in (("num", num, 1), ("size", size, 8), ("frames", frames, 1)):
        if value < least:
            raise InputError(f"{name} {value}: must be at least {least}")
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
