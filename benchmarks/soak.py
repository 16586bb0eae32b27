"""Whether memory stays level in a long training run: resident memory of the run and its loader workers over time.

    OMP_NUM_THREADS=1 python -m benchmarks.soak --minutes 30    # two CPU cores

A small autoencoder is trained from shards of the procedural world, of which three samples to fifty are bad (empty, cut
off, too short), with an average of the weights, checkpoints and validation. Workers are new processes each epoch, so a
series is that of a role: the main process, worker 0, worker 1, .... A worker begins with what the main process holds at
that moment; those of validation live for a second and are left out. A series is level if, after the first fifth of the
run, the medians of successive tenths of the rest lie within 5 % of each other. What is judged is resident memory; the
proportional share, which counts shared pages once, is given too.
"""

import io
import json
import multiprocessing
import sys
import tarfile
import tempfile
import threading
import time
import warnings
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from statistics import median
from typing import Any

from lightning import LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import Callback

from benchmarks.cells import add_json, command_line, save
from cmd_lightning.callbacks import EMA, LastCheckpoint
from cmd_lightning.components import VideoAutoencoder
from cmd_lightning.data.webvid import WebVidDataModule
from cmd_lightning.errors import InputError, program
from cmd_lightning.provenance import provenance
from cmd_lightning.shapes.synth import write_shapes
from cmd_lightning.zoo.autoencoders.cmd import CMDAutoencoder

TENTHS = 10
TOLERANCE = 0.05  # largest distance of the medians, as a share of the least
WARM_UP = 0.2  # share of the run that is not judged


@dataclass(frozen=True)
class Settings:
    """What is run."""

    minutes: float = 30.0  # of training
    workers: int = 2  # loader processes, at least 1
    every: float = 2.0  # seconds between two readings of memory
    clips: int = 200  # of the training data; the validation data are a quarter as many
    source: int = 128  # side of the clips in the shards, in pixels
    size: int = 32  # side to which they are scaled
    frames: int = 8
    batch: int = 4
    validate_every: int = 5  # epochs


@dataclass
class Series:
    """Readings of one role."""

    seconds: list[float] = field(default_factory=list)  # from the beginning of the fit
    resident: list[int] = field(default_factory=list)  # bytes in memory
    share: list[int] = field(default_factory=list)  # bytes where what n processes have in common counts as one n-th


class Watch(Callback):
    """Reads the memory of a training process and its loader workers from /proc, in a separate thread (Linux).

    Workers start in order, and both loaders have the same number.
    """

    def __init__(self, workers: int, every: float) -> None:
        self.workers, self.every = workers, every
        self.series: dict[str, Series] = {"main": Series()}
        self.begin = time.monotonic()
        self._first: int | None = None
        self._others: set[int] = set()
        self._before: set[int] = set()
        self._stopped, self._thread = threading.Event(), threading.Thread()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begins to read."""
        self.begin = time.monotonic()
        self._thread = threading.Thread(target=self._read_on, args=(trainer,), daemon=True)
        self._thread.start()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remembers who is no worker of validation."""
        self._before = set(_children())

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leaves out who has begun since: some live until the next validation."""
        self._others |= set(_children()) - self._before

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Reads no more."""
        self._stopped.set()
        self._thread.join()

    def _read_on(self, trainer: Trainer) -> None:
        while not self._stopped.wait(self.every):
            self._read("main", "self")
            for number, pid in () if trainer.validating else _children().items():
                if number not in self._others:
                    self._first = number if self._first is None else self._first
                    self._read(f"worker {(number - self._first) % self.workers}", str(pid))

    def _read(self, role: str, pid: str) -> None:
        try:
            lines = Path("/proc", pid, "smaps_rollup").read_text().splitlines()[1:]
        except OSError:  # it has ended by now
            return
        kilobytes = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines)}
        if kilobytes.get("Rss"):
            series = self.series.setdefault(role, Series())
            series.seconds.append(round(time.monotonic() - self.begin, 1))
            series.resident.append(1024 * kilobytes["Rss"])
            series.share.append(1024 * kilobytes["Pss"])


def _children() -> dict[int, int]:
    """Process ids of this process's children, by their number in the order of their beginning."""
    children = {int(child.name.rpartition("-")[2]): child.pid for child in multiprocessing.active_children()}
    return {number: pid for number, pid in sorted(children.items()) if pid}


def judge(series: Series, seconds: float) -> dict[str, Any]:
    """Whether a series of a run of so many seconds is level, by the median MiB of tenths; too few readings are not."""
    begin, tenths = WARM_UP * seconds, [[] for _ in range(TENTHS)]
    for when, size in zip(series.seconds, series.resident, strict=True):
        if begin <= when < seconds:
            tenths[int((when - begin) / (seconds - begin) * TENTHS)].append(size)
    if not all(tenths):
        return {"tenths": [], "distance": None, "level": False}
    medians = [median(tenth) / 2**20 for tenth in tenths]
    distance = max(medians) / min(medians) - 1
    return {"tenths": [round(size, 1) for size in medians], "distance": distance, "level": distance <= TOLERANCE}


def write_data(folder: Path, settings: Settings) -> int:
    """Writes shards to the folders `train` and `val`; the number of bad samples in `train`, three to fifty."""
    made = {"size": settings.source, "fps": 8.0, "shard_size": 50}
    for split, clips in (("train", settings.clips), ("val", settings.clips // 4)):
        write_shapes(folder / split, num=clips, frames=2 * settings.frames, split=split, **made)
    write_shapes(folder / "short", num=1, frames=settings.frames - 1, split="train", **made)
    whole, short = (_first_clip(folder / name) for name in ("train", "short"))
    kinds = {"empty": b"", "cut": whole[: len(whole) // 2], "short": short}
    shards = sorted((folder / "train").glob("*.tar"))
    for shard in shards:
        with tarfile.open(shard, "a") as tar:
            for name, data in kinds.items():
                member = tarfile.TarInfo(f"{shard.stem}-{name}.mp4")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    for split in ("train", "val"):
        (folder / split / "index.json").unlink()  # that of `train` knows nothing of what was added
    return len(shards) * len(kinds)


def _first_clip(folder: Path) -> bytes:
    with tarfile.open(min(folder.glob("*.tar"))) as tar:
        member = next(member for member in tar if member.name.endswith(".mp4"))
        return tar.extractfile(member).read()


def run(settings: Settings) -> dict[str, Any]:
    """The fit, as a record of plain data."""
    seed_everything(0, verbose=False)
    warnings.filterwarnings("ignore", ".* samples were bad and replaced")  # told each epoch
    with tempfile.TemporaryDirectory() as name:
        bad = write_data(Path(name), settings)
        taken = {"num_frames": settings.frames, "size": settings.size, "batch_size": settings.batch}
        data = WebVidDataModule(f"{name}/train", f"{name}/val", **taken, num_workers=settings.workers)
        model = VideoAutoencoder(lambda: CMDAutoencoder(patch_size=4, width=32, depth=1, heads=2, head_dim=16))
        watch = Watch(settings.workers, settings.every)
        callbacks = [EMA(), LastCheckpoint(name, every_n_steps=50), watch]
        length = {"max_time": timedelta(minutes=settings.minutes), "max_epochs": -1}
        validation = {"check_val_every_n_epoch": settings.validate_every, "num_sanity_val_steps": 0}
        quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
        about = length | validation | quiet
        trainer = Trainer(accelerator="cpu", callbacks=callbacks, default_root_dir=name, **about)
        trainer.fit(model, data, weights_only=True)
        seconds = time.monotonic() - watch.begin
    roles = {role: judge(own, seconds) | {"series": vars(own)} for role, own in sorted(watch.series.items())}
    return {
        "settings": vars(settings),
        "samples": {"good": settings.clips, "bad": bad},
        "done": {"seconds": round(seconds), "epochs": trainer.current_epoch, "steps": trainer.global_step},
        "level": all(row["level"] for row in roles.values()),
        "roles": roles,
    }


def plot(record: dict[str, Any], path: Path) -> None:
    """Resident memory of each role over time; the warm-up is shaded."""
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(8, 4.5), layout="constrained")
    for role, row in record["roles"].items():
        minutes = [second / 60 for second in row["series"]["seconds"]]
        axis.plot(minutes, [size / 2**20 for size in row["series"]["resident"]], label=role, linewidth=1)
    axis.axvspan(0, WARM_UP * record["done"]["seconds"] / 60, color="0.9", label="warm-up")
    axis.set(xlabel="minutes of training", ylabel="resident memory in MiB", ylim=(0, None))
    axis.set_title("training with loader workers")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    figure.savefig(path, dpi=100)
    plt.close(figure)


def main() -> int:
    """The command line; 1 if memory is not level."""
    parser = command_line(__doc__)
    add_json(parser, "benchmarks/results/soak.json", "results; a .png next to it")
    parser.add_argument("--minutes", type=float, default=Settings.minutes)
    parser.add_argument("--workers", type=int, default=Settings.workers, help="loader processes, at least 1")
    options = parser.parse_args()
    if options.minutes <= 0:
        raise InputError(f"--minutes {options.minutes}: give a positive number")
    if options.workers < 1:
        raise InputError(f"--workers {options.workers}: give at least 1, whose memory can be watched")
    if sys.platform != "linux":
        raise InputError(f"this system is {sys.platform}; memory is read from /proc, on Linux only")
    record = provenance() | {"protocol": " ".join(__doc__.split("\n\n")[2].split())}
    record |= run(Settings(minutes=options.minutes, workers=options.workers))
    save(json.dumps(record) + "\n", options.json)
    plot(record, options.json.with_suffix(".png"))
    for role, row in record["roles"].items():
        within = f"within {100 * row['distance']:.1f} %" if row["tenths"] else "too few readings"
        print(role, "level" if row["level"] else "NOT LEVEL", within, row["tenths"])
    return 0 if record["level"] else 1


if __name__ == "__main__":
    program(main)
