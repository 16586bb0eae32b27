"""Facts about the clips of shards, from the first ones: captions, labels, frame rates, lengths."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from statistics import median, quantiles

from cmd_lightning.data.cache import ShardCache
from cmd_lightning.data.clips import BadSample, read_caption, read_facts, read_label, video_of
from cmd_lightning.data.index import Shard, expand
from cmd_lightning.data.tar import read_samples
from cmd_lightning.errors import InputError
from cmd_lightning.video_file import VideoError
from cmd_lightning.video_io import VideoReader

_MOST = 500  # clips that are looked at


@dataclass(frozen=True)
class Survey:
    """Facts about clips."""

    clips: int
    captions: list[str]  # that are not empty
    labels: list[int]  # of clips that have one
    fps: float  # median of the frame rates, in frames per second
    seconds: float  # nine of ten clips are at least this long
    frames: float  # nine of ten clips have at least this many
    lengths: list[tuple[int, float]]  # number of frames, and frames per second, of each clip

    def too_short(self, frames: int, fps: float) -> int:
        """Number of clips that end before a sample of `frames` frames at `fps` does, as `choose_frames` sees it."""
        return sum((number - 0.5) / rate <= (frames - 1) / fps for number, rate in self.lengths)


def survey(shards: str, option: str) -> Survey:
    """Look at the first 500 usable clips of shards, as `expand` takes them; nothing is decoded.

    Raises:
        InputError: There is no shard, or no usable clip in them. It names the `option`.
    """
    found = list(islice(_looks(expand(shards, option)), _MOST))
    if not found:
        raise InputError(f"{option} {shards}: no usable clip; `cmd-lightning shards check` counts the reasons")
    captions, labels, rates, frames = zip(*found, strict=True)
    lengths = list(zip(frames, rates, strict=True))
    return Survey(
        clips=len(found),
        captions=[caption for caption in captions if caption],
        labels=[label for label in labels if label >= 0],
        fps=median(rates),
        seconds=_tenth([number / rate for number, rate in lengths]),
        frames=_tenth(frames),
        lengths=lengths,
    )


def _looks(urls: Sequence[str]) -> Iterator[tuple[str, int, float, int]]:
    """Caption, label, frames per second and frames of each usable clip."""
    remote = ShardCache()
    for url in urls:
        with Shard(url, 0).open(remote) as file:
            for sample in read_samples(file, url):
                try:
                    members = sample.read()
                    facts = read_facts(members)
                    reader = VideoReader(video_of(members))
                    yield read_caption(members, facts), read_label(members, facts), reader.fps, reader.frames
                except (BadSample, VideoError):
                    continue


def _tenth(values: Sequence[float]) -> float:
    """The value that nine of ten reach."""
    return quantiles(values, n=10, method="inclusive")[0] if len(values) > 1 else values[0]
