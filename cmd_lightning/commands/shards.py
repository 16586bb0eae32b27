"""The verbs `shards synth`, `shards pack` and `shards check`; `shards encode` has a file of its own."""

from cmd_lightning.commands.encode import encode
from cmd_lightning.commands.files import report, tell
from cmd_lightning.shapes.scenes import Level, Motion

__all__ = ["check", "encode", "pack", "synth"]


def synth(
    *,
    out: str,
    num: int = 1000,
    size: int = 64,
    frames: int = 16,
    fps: float = 8.0,
    seed: int = 0,
    split: str = "train",
    level: Level = "plain",
    motion: Motion = "middle",
    shard_size: int = 1000,
    json: str | None = None,
) -> None:
    """Make the procedural data set: captioned moving shapes as real shards, in OUT/SPLIT.

    A clip depends on seed, split, level, motion and its number alone. Other splits of the same seed are other clips.
    The split "train" leaves out a fifth of the combinations of shape, colour and direction, which all others show.

    Args:
        out: Folder for the shards.
        num: Number of clips.
        size: Side of the square picture in pixels.
        frames: Frames of a clip.
        fps: Frames per second.
        seed: Any whole number.
        split: Folder within OUT.
        level: `plain` shows one shape on grey, seen by a still camera; `mixed` has one to three with textures,
            circling, spinning and growing, patterns behind, a bar before, and a moving camera.
        motion: Speed of shapes; at 64 pixels, middle is 1.5 to 3 pixels per frame and extreme four times that.
        shard_size: Clips in a shard.
        json: Write a report to this file; - is standard output.
    """
    from cmd_lightning.data.shard_writer import split_folder
    from cmd_lightning.shapes.synth import write_shapes

    folder = split_folder(out, split)
    made = write_shapes(
        folder,
        num=num,
        size=size,
        frames=frames,
        fps=fps,
        seed=seed,
        split=split,
        level=level,
        motion=motion,
        shard_size=shard_size,
        progress=tell,
    )
    report({"samples": made, "out": str(folder)}, json)


def pack(
    *,
    videos: str,
    out: str,
    captions: str | None = None,
    prompts: str | None = None,
    shard_size: int = 1000,
    split: str | None = None,
    hold_out: float | None = None,
    seed: int = 0,
    json: str | None = None,
) -> None:
    """Pack clips into shards, as they are: a folder with a table, of a public data set, of clips or of class folders.

    CAPTIONS is a CSV with the columns path (within VIDEOS) and, as wanted, caption, label and split; or, as
    published: the CSV of OpenVid-1M or WebVid, a videodatainfo.json of MSR-VTT, or UCF-101's folder
    ucfTrainTestlist, of which the first official split is taken (name trainlist02.txt, then testlist02.txt, for
    the second). Clips with a split go to OUT/SPLIT. Without CAPTIONS every folder in VIDEOS is a class of that
    name, or the clips have no class where VIDEOS has no folders; a CLIP.txt next to a clip is its caption. Files that
    are not used are counted by reason.

    Args:
        videos: Folder of the clips (.mp4, .mov, .m4v, .avi, .mkv, .webm, .gif); those of public data sets may be
            anywhere in it.
        out: Folder for the shards.
        captions: File or folder with the captions and classes of the clips.
        prompts: Captions by class in place of others, a CSV class,prompt or a text file with one a line in the
            order of the classes.
        shard_size: Clips in a shard.
        split: Pack the clips of this split only; where none has a split, the folder within OUT for all.
        hold_out: Share of the clips of each class, such as 0.1, to write to OUT/test; the others go to OUT/train.
        seed: Of the choice of a caption where a clip has several, as in MSR-VTT, and of the clips to hold out.
        json: Write a report to this file; - is standard output.
    """
    from cmd_lightning.data.pack import pack_clips

    packed = pack_clips(
        videos,
        out,
        captions,
        prompts=prompts,
        shard_size=shard_size,
        split=split,
        hold_out=hold_out,
        seed=seed,
        progress=tell,
    )
    report(packed, json)


def check(shards: list[str], *, allow_bad: bool = False, allow_commands: bool = False, json: str | None = None) -> int:
    """Decode every clip of the shards, count the good and the bad, and note them in the index next to the shards.

    The exit code is 1 if a sample is bad.

    Args:
        shards: .tar files: paths, globs, folders, brace ranges or http(s) addresses.
        allow_bad: End with exit code 0 also if samples are bad.
        allow_commands: Also take pipe:COMMAND, s3:// and the like, which run programs of yours.
        json: Write the report to this file; - is standard output.
    """
    from cmd_lightning.data.cache import ShardCache
    from cmd_lightning.data.check import check_shards

    found = check_shards(shards, remote=ShardCache(allow_commands=allow_commands), progress=tell)
    report(found, json)
    return int(bool(found["bad"]) and not allow_bad)
