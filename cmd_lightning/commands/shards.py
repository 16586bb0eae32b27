"""The verbs `shards synth`, `shards pack` and `shards check`; `shards encode` is in encode.py."""

from pathlib import Path

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

    A clip depends only on seed, split, level, motion and its number. Other splits of the same seed have other clips.
    The split "train" leaves out a fifth of the combinations of shape, colour and direction; other splits have all.

    Args:
        out: Folder for the shards.
        num: Number of clips.
        size: Side of the square frames in pixels.
        frames: Frames of a clip.
        fps: Frames per second.
        seed: Any whole number.
        split: Folder in OUT.
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
    """Pack clips into shards without re-encoding them.

    CAPTIONS is a CSV, .jsonl or .parquet with the column path (relative to VIDEOS) and optionally caption, label and
    split. It can also be the list of a public data set: the CSV of OpenVid-1M or WebVid, videodatainfo.json of MSR-VTT,
    or the folder ucfTrainTestlist of UCF-101 (its first official split; give trainlist02.txt, then testlist02.txt, for
    the second). Clips with a split go to OUT/SPLIT. Without CAPTIONS, every subfolder of VIDEOS is a class, and
    CLIP.txt next to a clip, at any depth, is its caption; without subfolders, clips have no class. Animated emoji, all
    named by code points (1f407.webp), get their English names and the splits train, test and combinations. Unused files
    are counted by reason.

    Args:
        videos: Folder of the clips (MP4, MOV, AVI, MKV, WebM, MPEG, WMV, FLV, Ogg, GIF, animated WebP and PNG); clips
            of public data sets are found at any depth.
        out: Folder for the shards.
        captions: File or folder with the captions and classes of the clips.
        prompts: Captions by class, which replace others: a CSV class,prompt or a text file with one line per class, in
            order.
        shard_size: Clips in a shard.
        split: Pack only the clips of this split; if no clip has a split, the folder in OUT for all clips.
        hold_out: Share of the clips of each class, such as 0.1, to write to OUT/test; the others go to OUT/train.
        seed: Seed for choosing a caption if a clip has several, as in MSR-VTT, and for choosing held-out clips.
        json: Write a report to this file; - is standard output.
    """
    from cmd_lightning.packing.pack import pack_clips

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


def check(
    shards: list[str],
    *,
    sheet: str | None = None,
    sheet_clips: int = 24,
    allow_bad: bool = False,
    allow_commands: bool = False,
    json: str | None = None,
) -> int:
    """Decode every clip of the shards, count good and bad ones, and record them in the index next to the shards.

    It reports frames and seconds by size and by frame rate. The exit code is 1 if a sample is bad.

    Args:
        shards: .tar files: paths, globs, folders, brace ranges or URLs (http, https, s3, gs, az, hf).
        sheet: Write a contact sheet to this image file (.png, .jpg): the first and the middle frame of some clips, with
            the beginnings of their captions.
        sheet_clips: Largest number of clips on it.
        allow_bad: Exit with code 0 even if samples are bad.
        allow_commands: Also accept pipe:COMMAND, which runs a program on this machine.
        json: Write the report to this file; - is standard output.
    """
    from cmd_lightning.commands.sheet import ContactSheet
    from cmd_lightning.data.cache import ShardCache
    from cmd_lightning.data.check import check_shards

    drawn = ContactSheet(Path(sheet), sheet_clips) if sheet else None
    options = {"look": drawn.add} if drawn else {}
    found = check_shards(shards, remote=ShardCache(allow_commands=allow_commands), **options, progress=tell)
    if drawn:
        drawn.save()
    report(found, json)
    return int(bool(found["bad"]) and not allow_bad)
