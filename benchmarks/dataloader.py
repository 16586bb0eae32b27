"""The streaming loader beside bare decoding: how much of the decoder's speed reaches a training.

    OMP_NUM_THREADS=1 python -m benchmarks.dataloader    # five minutes on two cores

Shards of H.264 clips are made in a temporary folder. The loader is what a user has: `WebVidDataModule` with captions,
labels, shuffle buffer and bad samples. Beside it a PyTorch DataLoader of as many workers decodes the same frames of
the same clips, held in memory, by PyAV alone and resizes them by the same function; once as PyAV's documentation
shows, which sets up the conversion to RGB anew for each frame, and once with one converter for all frames of a clip.
An epoch of each is timed whole, with the start of its workers, and they take turns, so that other work on the machine
meets all alike. A first epoch of each does not count: in it, clips are compared bit by bit.
"""

import io
import json
import random
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import av
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from benchmarks.cells import add_json, command_line, in_turn, save, spread
from cmd_lightning import markdown
from cmd_lightning.data.clips import choose_frames, resize_and_crop
from cmd_lightning.data.plan import stable_hash
from cmd_lightning.data.shard_writer import ShardWriter
from cmd_lightning.data.webvid import WebVidDataModule
from cmd_lightning.errors import InputError, program
from cmd_lightning.provenance import provenance
from cmd_lightning.video_io import mp4_bytes

LOADER, BARE, BARE_ONE_CONVERTER = "loader", "bare", "bare, one converter"


@dataclass(frozen=True)
class Settings:
    """What is measured; sizes are (H, W)."""

    clips: int = 240  # in an epoch
    distinct: int = 24  # of them; the others are copies under other keys
    sizes: tuple[tuple[int, int], ...] = ((240, 320), (64, 64))  # of the clips' files
    frames: int = 100  # of a file
    rate: float = 25.0  # frames per second of a file
    fps: float = 8.0  # frames per second taken
    num_frames: int = 16  # frames taken
    size: tuple[int, int] = (64, 64)  # of the batches
    batch_size: int = 8
    workers: tuple[int, ...] = (2, 0)
    rounds: int = 7  # epochs that count

    def __post_init__(self) -> None:
        if self.clips % self.batch_size:
            raise InputError(f"--clips {self.clips}: give a multiple of {self.batch_size}, the size of a batch")
        if self.rounds < 1:
            raise InputError(f"--rounds {self.rounds}: must be at least 1")


def make_clip(number: int, frames: int, height: int, width: int) -> Tensor:
    """A soft pattern with some grain over which the camera pans: uint8 (3, T, H, W)."""
    generator = torch.Generator().manual_seed(number)
    room = 2 * frames
    field = torch.rand(1, 3, height // 16 + 4, width // 16 + 4, generator=generator)
    field = torch.nn.functional.interpolate(field, (height + room, width + room), mode="bicubic")[0]
    field = (0.9 * field + 0.1 * torch.rand(field.shape, generator=generator)).clamp(0, 1).mul(255).to(torch.uint8)
    speed = 1 + number % 2
    return torch.stack([field[:, i : i + height, speed * i : speed * i + width] for i in range(frames)], 1)


def write_clips(folder: Path, settings: Settings, height: int, width: int) -> dict[str, bytes]:
    """Write shards of clips with captions and labels; the clips' bytes by key."""
    files = [
        mp4_bytes(make_clip(number, settings.frames, height, width), settings.rate, crf=23)
        for number in range(settings.distinct)
    ]
    clips = {}
    with ShardWriter(folder, shard_size=50) as writer:
        for number in range(settings.clips):
            data = files[number % len(files)]
            clips[f"{number // 50:06d}/{number // 50:06d}{number % 50:05d}"] = data  # as the DataModule calls them
            writer.write("mp4", data, f"pattern {number}", {"label": number % 4})
    return clips


def decode(
    clips: Sequence[tuple[str, bytes, list[int]]], size: tuple[int, int], *, one_converter: bool
) -> dict[str, Any]:
    """A batch of clips, (key, bytes, ascending numbers of the frames to take), decoded by PyAV and nothing else.

    With `one_converter` one object converts all frames of a clip to RGB.
    """
    videos = []
    for _, data, numbers in clips:
        with av.open(io.BytesIO(data)) as container:
            stream = container.streams.video[0]
            stream.codec_context.thread_count = 1
            step = 1 / (stream.average_rate * stream.time_base)
            times = [round(number * step) for number in numbers]
            found, converter = {}, av.video.reformatter.VideoReformatter()
            container.seek(times[0], stream=stream)
            for frame in container.decode(stream):
                if frame.pts in times and one_converter:
                    found[frame.pts] = converter.reformat(frame, format="rgb24", threads=1).to_ndarray()
                elif frame.pts in times:
                    found[frame.pts] = frame.to_ndarray(format="rgb24")
                if frame.pts >= times[-1]:
                    break
        video = torch.from_numpy(np.stack([found[time] for time in times])).permute(3, 0, 1, 2)
        videos.append(resize_and_crop(video, size))
    return {"key": [key for key, *_ in clips], "video": torch.stack(videos)}


def measure(settings: Settings, height: int, width: int, workers: int) -> dict[str, Any]:
    """Clips per second of loader and bare decoding, of each round, and their `summary`."""
    with tempfile.TemporaryDirectory() as folder:
        shards = Path(folder, "shards")
        clips = write_clips(shards, settings, height, width)
        taken = {"num_frames": settings.num_frames, "size": list(settings.size), "fps": settings.fps}
        data = WebVidDataModule(str(shards), **taken, batch_size=settings.batch_size, num_workers=workers)
        step = settings.rate / settings.fps
        draws = {key: random.Random(stable_hash("clip", data.seed, 0, key, "")) for key in clips}  # of epoch 0
        numbers = {key: choose_frames(settings.frames, settings.num_frames, step, draws[key]) for key in clips}
        parts = [(key, clip, numbers[key]) for key, clip in clips.items()]

        def loader() -> Iterable[dict[str, Any]]:
            data.setup("fit")  # every pass is epoch 0
            return data.train_dataloader()

        def bare(one_converter: bool) -> DataLoader:
            decoded = partial(decode, size=settings.size, one_converter=one_converter)
            return DataLoader(parts, settings.batch_size, num_workers=workers, collate_fn=decoded)

        sides = {LOADER: loader, BARE: partial(bare, False), BARE_ONE_CONVERTER: partial(bare, True)}
        seen = {name: epoch(make(), keep=True)[1] for name, make in sides.items()}
        for name, videos in seen.items():
            if videos != seen[BARE] or len(videos) != settings.clips:
                raise RuntimeError(f"{name} and {BARE} give other clips; nothing can be compared")
        passes = {name: lambda _, make=make: settings.clips / epoch(make())[0] for name, make in sides.items()}
        rates = in_turn(passes, settings.rounds)
    return {"rates": rates, **summary(rates)}


def epoch(loader: Iterable[dict[str, Any]], *, keep: bool = False) -> tuple[float, dict[str, int]]:
    """Seconds of a pass over a loader, and the sums that tell its clips apart, by key."""
    seen: dict[str, int] = {}
    begun = time.perf_counter()
    for batch in loader:
        for key, video in zip(batch["key"], batch["video"], strict=True) if keep else ():
            seen[key] = hash(video.numpy().tobytes())
    return time.perf_counter() - begun, seen


def summary(rates: dict[str, list[float]]) -> dict[str, Any]:
    """Median, least and most clips per second, and the loader's share of either bare one within each round."""
    shares = {
        name: median(own / other for own, other in zip(rates[LOADER], rates[name], strict=True))
        for name in rates
        if name != LOADER
    }
    return {"clips a second": {name: spread(own) for name, own in rates.items()}, "share": shares}


def table(rows: dict[str, dict[str, Any]]) -> str:
    """The results as a Markdown table."""
    names = (LOADER, BARE, BARE_ONE_CONVERTER)
    lines = []
    for title, row in rows.items():
        cells = ["{median:.1f} ({least:.1f} to {most:.1f})".format(**row["clips a second"][name]) for name in names]
        cells += [f"{row['share'][name]:.2f}" for name in names[1:]]
        lines.append((title, *cells))
    return markdown.table(("clips, workers", *names, "share of bare", "of one converter"), lines)


def run(settings: Settings) -> dict[str, Any]:
    """All rows by title, with what makes them reproducible, as plain data."""
    rows = {}
    for height, width in settings.sizes:
        for workers in settings.workers:
            title = f"{width}x{height}, {workers}"
            rows[title] = measure(settings, height, width, workers)
            print(title, json.dumps(rows[title]["share"]), flush=True)
    record = provenance()
    record["versions"] += f", av {version('av')}"
    return record | {"settings": asdict(settings), "protocol": __doc__, "rows": rows}


def main() -> int:
    """The command line."""
    parser = command_line(__doc__)
    add_json(parser, "benchmarks/results/dataloader.json")
    parser.add_argument("--clips", type=int, default=Settings.clips, help="in an epoch")
    parser.add_argument("--rounds", type=int, default=Settings.rounds, help="epochs of each side")
    parser.add_argument("--workers", type=int, nargs="+", default=Settings.workers, help="numbers of worker processes")
    options = parser.parse_args()
    settings = Settings(clips=options.clips, rounds=options.rounds, workers=tuple(options.workers))
    torch.set_num_threads(1)
    result = run(settings)
    print(table(result["rows"]))
    save(json.dumps(result, indent=1) + "\n", options.json)
    return 0


if __name__ == "__main__":
    program(main)
