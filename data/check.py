"""Decode what shards hold, all of it, and note in their index what is bad."""

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from cmd_lightning.data.cache import ShardCache
from cmd_lightning.data.clips import LATENT_SUFFIX, BadSample, read_caption, read_facts, read_label, video_of
from cmd_lightning.data.index import Shard, expand, is_remote, place_of, scan, update_index
from cmd_lightning.data.latent_clips import check_finite, read_latents
from cmd_lightning.data.tar import read_samples
from cmd_lightning.video_file import VideoError
from cmd_lightning.video_io import VIDEO_SUFFIXES, VideoInfo, VideoReader

Look = Callable[[str, VideoReader, str], object]  # gets the key of a good video, the open video and its caption

# What videos may be, and the option of `Viewing` that says how they are shown.
_CHOICES = {"interlaced": "deinterlace", "hdr": "tone_map", "transparent": "background"}


def check_shards(
    shards: str | Sequence[str],
    *,
    remote: ShardCache | None = None,
    look: Look = lambda key, video, caption: None,
    progress: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Decode every sample; the index of local shards then lists the bad ones, and streams leave them out.

    The shards are given as for `expand`; `look` receives each good video, `progress` a line of text for each shard.

    Returns:
        {"samples": good ones, "bad": {reason: number}, "frames": of the good videos, "seconds": the same,
        "sizes": {"WxH": {"clips", "frames", "seconds"}}, "rates": the same by frames per second}; where there are such
        also "empty_captions": number of good samples, "interlaced", "hdr" and "transparent": numbers of videos,
        "latents": {shapes: number of samples}.
    """
    remote = remote or ShardCache()
    bad: Counter[str] = Counter()
    found: list[_Good] = []
    for url in expand(shards, remote=remote):
        shard, good = _check_shard(url, remote, look)
        bad.update(shard.bad.values())
        empty = sum(one.empty_caption for one in good)
        progress(f"{url}: {len(good)} good, {len(shard.bad)} bad{f', {empty} without a caption' if empty else ''}")
        folder = place_of(url).folder
        if not is_remote(url) and os.access(folder, os.W_OK):
            update_index(folder, [shard], num_classes=1 + max((one.label for one in good), default=-1))
        else:
            progress(f"{url}: the folder cannot be written, so its index.json stays as it is")
        found += good
    videos = [one.content for one in found if isinstance(one.content, VideoInfo)]
    report: dict[str, Any] = {
        "samples": len(found),
        "bad": dict(bad),
        **_amount(videos),
        "sizes": _amounts(videos, lambda video: (video.width, video.height), "{0[0]}x{0[1]}"),
        "rates": _amounts(videos, lambda video: round(video.fps, 2), "{0:g}"),
    }
    if empty := sum(one.empty_caption for one in found):
        report["empty_captions"] = empty
    for name, option in _CHOICES.items():
        if number := sum(getattr(video, name) for video in videos):
            report[name] = number
            progress(f"{number} good videos are {name}: consider data.viewing.{option} in training")
    if latents := Counter(one.content for one in found if isinstance(one.content, str)):
        report["latents"] = dict(sorted(latents.items()))
    return report


class _Good(NamedTuple):
    """What a good sample holds."""

    content: VideoInfo | str  # a video, or the shapes of latents
    label: int
    empty_caption: bool


def _amounts(videos: Sequence[VideoInfo], kind: Callable[[VideoInfo], Any], name: str) -> dict[str, dict[str, float]]:
    """How much there is of each kind of videos, in the order of the kinds, each by its name."""
    kinds: dict[Any, list[VideoInfo]] = defaultdict(list)
    for video in videos:
        kinds[kind(video)].append(video)
    return {name.format(one): {"clips": len(kinds[one]), **_amount(kinds[one])} for one in sorted(kinds)}


def _amount(videos: Sequence[VideoInfo]) -> dict[str, float]:
    seconds = sum(video.frames / video.fps for video in videos)
    return {"frames": sum(video.frames for video in videos), "seconds": round(seconds, 3)}


def _check_shard(url: str, remote: ShardCache, look: Look) -> tuple[Shard, list[_Good]]:
    bad: dict[str, str] = {}
    good: list[_Good] = []
    with Shard(url, 0).open(remote) as file:
        known = scan(url, file)
        for sample in read_samples(file, url):
            try:
                members = sample.read()
                facts = read_facts(members)
                label, caption = read_label(members, facts), read_caption(members, facts)
                latent = LATENT_SUFFIX in members and members.keys().isdisjoint(VIDEO_SUFFIXES)
                content = _check_latents(members, facts) if latent else _check_video(members, look, caption)
                good.append(_Good(content, label, not caption))
            except BadSample as reason:
                bad[sample.key] = str(reason)
            except VideoError as error:
                bad[sample.key] = error.reason
    return replace(known, bad=bad), good


def _check_video(members: dict[str, Any], look: Look, caption: str) -> VideoInfo:
    reader = VideoReader(video_of(members))
    reader.verify()
    look(members["__key__"], reader, caption)
    return reader.info


def _check_latents(members: dict[str, Any], facts: dict[str, Any]) -> str:
    """The shapes of latents, as "2 clips of content 4x32x32, motion 8x16x64"."""
    latents = read_latents(members, facts)
    check_finite(latents.clips)
    shapes = ", ".join(f"{name} {'x'.join(map(str, clip.shape[1:]))}" for name, clip in latents.clips.items())
    return f"{latents.number} clips of {shapes}"
