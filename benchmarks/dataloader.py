"""The streaming loader compared with bare decoding and with webdataset, as a share of the decoder's speed.

    OMP_NUM_THREADS=1 python -m benchmarks.dataloader    # five minutes on two cores; the same command resumes

Shards of H.264 clips are made in a temporary folder. The loader is what a user has: `WebVidDataModule` with captions,
labels, shuffle buffer and bad samples. It is compared with four others that decode the same frames of the same clips,
resize them by the same function and have as many workers:

- bare: a PyTorch DataLoader over clips in memory, PyAV alone, which sets up the conversion to RGB for each frame, as
  its documentation shows;
- bare, one converter: the same with one converter for all frames of a clip, the strict measure;
- webdataset: `WebDataset(...).shuffle(100).map(decode).batched(8)` in a `WebLoader` over the same shards, with captions
  and labels, decoding as "bare, one converter" does;
- torchcodec: the same pipeline, decoding by torchcodec (exact seeks, one thread) if it is installed.

An epoch of each is timed whole, with the start of its workers, and they take turns, so that other work on the machine
meets all alike. A first epoch of each does not count: in it, clips are compared, bit by bit; torchcodec, which
may use another build of FFmpeg, may differ by one level of 255 on average.
"""

import random
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from benchmarks.cells import Cell, Rows, add_json, closing, command_line, in_turn, measure_cells, spread, stamped
from benchmarks.loader_peers import Clips, why_not, with_pyav, with_torchcodec
from cmd_lightning import markdown
from cmd_lightning.data.clips import choose_frames
from cmd_lightning.data.plan import stable_hash
from cmd_lightning.data.shard_writer import ShardWriter
from cmd_lightning.data.webvid import WebVidDataModule
from cmd_lightning.errors import InputError, program
from cmd_lightning.provenance import provenance
from cmd_lightning.video_encoding import mp4_bytes

LOADER, BARE, STRICT, WEBDATASET, TORCHCODEC = "loader", "bare", "bare, one converter", "webdataset", "torchcodec"
SIDES = (LOADER, BARE, STRICT, WEBDATASET, TORCHCODEC)


@dataclass(frozen=True)
class Settings:
    """What is measured; sizes are (H, W)."""

    clips: int = 224  # in an epoch
    shards: int = 4  # that they are in: a worker of webdataset reads whole ones
    distinct: int = 24  # of them; the others are copies under other keys
    sizes: tuple[tuple[int, int], ...] = ((240, 320), (64, 64))  # of the clips' files
    frames: int = 100  # of a file
    rate: float = 25.0  # frames per second of a file
    fps: float = 8.0  # frames per second taken
    num_frames: int = 16  # frames taken
    size: tuple[int, int] = (64, 64)  # of the batches
    batch_size: int = 8
    workers: tuple[int, ...] = (2, 0)
    rounds: int = 5  # epochs that count

    def __post_init__(self) -> None:
        if self.clips % (self.batch_size * self.shards):
            whole = f"{self.batch_size * self.shards}, batches of {self.batch_size} in {self.shards} shards"
            raise InputError(f"--clips {self.clips}: give a multiple of {whole}")
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
    each = settings.clips // settings.shards
    with ShardWriter(folder, shard_size=each) as writer:
        for number in range(settings.clips):
            data = files[number % len(files)]
            shard = f"{number // each:06d}"
            clips[f"{shard}/{shard}{number % each:05d}"] = data  # as the DataModule calls them
            writer.write("mp4", data, f"pattern {number}", {"label": number % 4})
    return clips


def measure(settings: Settings, cell: Cell) -> Rows:
    """Clips per second of each side in each round, and why a side is missing."""
    width, height = map(int, cell["clips"].split("x"))
    with tempfile.TemporaryDirectory() as folder:
        shards = Path(folder, "shards")
        files = write_clips(shards, settings, height, width)
        taken = {"num_frames": settings.num_frames, "size": list(settings.size), "fps": settings.fps}
        workers, urls = cell["workers"], sorted(map(str, shards.glob("*.tar")))
        data = WebVidDataModule(urls, **taken, batch_size=settings.batch_size, num_workers=workers)
        step = settings.rate / settings.fps
        draws = {key: random.Random(stable_hash("clip", data.seed, 0, key, "")) for key in files}  # of epoch 0
        numbers = {key: choose_frames(settings.frames, settings.num_frames, step, draws[key]) for key in files}
        clips = Clips(urls, files, numbers, settings.size, settings.batch_size, workers)

        def loader() -> Iterable[dict[str, Any]]:
            data.setup("fit")  # every pass is epoch 0
            return data.train_dataloader()

        strict = partial(with_pyav, one_converter=True)
        sides: dict[str, Callable[[], Iterable[dict[str, Any]]]] = {
            LOADER: loader,
            BARE: partial(clips.in_memory, partial(with_pyav, one_converter=False)),
            STRICT: partial(clips.in_memory, strict),
            WEBDATASET: partial(clips.in_webdataset, strict),
        }
        missing = {}
        if why := why_not(with_torchcodec, next(iter(files.values()))):
            missing[TORCHCODEC] = why
        else:
            sides[TORCHCODEC] = partial(clips.in_webdataset, with_torchcodec)
        seen = {name: epoch(make(), keep=True)[1] for name, make in sides.items()}
        for name, videos in seen.items():
            if not are_same(videos, seen[STRICT], 1.0 if name == TORCHCODEC else 0.0) or len(videos) != settings.clips:
                raise RuntimeError(f"{name} and {STRICT} give other clips; nothing can be compared")
        passes = {name: lambda _, make=make: settings.clips / epoch(make())[0] for name, make in sides.items()}
        rates = in_turn(passes, settings.rounds)
    return [stamped({"rates": rates, "missing": missing})]


def epoch(loader: Iterable[dict[str, Any]], *, keep: bool = False) -> tuple[float, dict[str, Tensor]]:
    """Seconds of a pass over a loader, and if they are kept its clips by key."""
    seen: dict[str, Tensor] = {}
    begun = time.perf_counter()
    for batch in loader:
        if keep:
            seen |= zip(batch["key"], batch["video"].clone(), strict=True)
    return time.perf_counter() - begun, seen


def are_same(videos: Mapping[str, Tensor], others: Mapping[str, Tensor], most: float) -> bool:
    """Whether clips have the same keys, and pixels that differ by no more than this on average."""
    return videos.keys() == others.keys() and all(
        (video.float() - others[key].float()).abs().mean() <= most for key, video in videos.items()
    )


def share(rates: Mapping[str, list[float]], name: str) -> float:
    """A side's share of the strict bare loop within each round, the median."""
    return median(own / strict for own, strict in zip(rates[name], rates[STRICT], strict=True))


def table(result: Mapping[str, Any]) -> str:
    """The results as a Markdown table, with what they were measured on."""
    lines = []
    for row in result["rows"]:
        rates, missing = row["rates"], row.get("missing", {})
        figures = {
            name: "{median:.1f} ({least:.1f} to {most:.1f})".format(**spread(rates[name]))
            + f", **{share(rates, name):.2f}**" * (name != STRICT)
            for name in rates
        }
        cells = [figures.get(name, missing.get(name, "not measured")) for name in SIDES]
        lines.append((f"{row['clips']}, {row['workers']}", *cells))
    on = f"Measured on: {result['hardware']}; {result['versions']}; {result['date']}."
    return f"{markdown.table(('clips, workers', *SIDES), lines)}\n\n{on}"


def run(settings: Settings, path: Path | None = None, minutes: float = 6.0) -> dict[str, Any]:
    """The results, with what makes them reproducible; those that `path` holds are not measured again."""
    cells = [
        {"clips": f"{width}x{height}", "workers": workers}
        for height, width in settings.sizes
        for workers in settings.workers
    ]
    record = provenance()
    for name in ("av", "webdataset", "torchcodec"):
        with suppress(PackageNotFoundError):
            record["versions"] += f", {name} {version(name)}"
    about = record | {"settings": asdict(settings), "protocol": __doc__}
    result = measure_cells(cells, partial(measure, settings), about, path, minutes)
    print(closing(cells, result["rows"]))
    return result


def main() -> int:
    """The command line."""
    parser = command_line(__doc__)
    add_json(parser, "benchmarks/results/dataloader.json")
    parser.add_argument("--clips", type=int, default=Settings.clips, help="in an epoch (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=Settings.rounds, help="epochs that count (default: %(default)s)")
    parser.add_argument("--workers", type=int, nargs="+", default=Settings.workers, help="numbers of worker processes")
    parser.add_argument("--minutes", type=float, default=6.0, help="after which no other cell begins")
    options = parser.parse_args()
    settings = Settings(clips=options.clips, rounds=options.rounds, workers=tuple(options.workers))
    torch.set_num_threads(1)
    print(table(run(settings, options.json, options.minutes)))
    return 0


if __name__ == "__main__":
    program(main)
