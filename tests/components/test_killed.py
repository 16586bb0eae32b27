"""Training that is killed anywhere and often, and resumed each time, ends as an uninterrupted run, bit for bit."""

import itertools
import json
import multiprocessing
import os
import random
import signal
import time
from pathlib import Path

import pytest
import torch
import yaml
from killed_fits import live
from same import assert_same
from training_configs import AUTOENCODER, motion

from cmd_lightning.shapes.synth import write_shapes

STEPS = 26  # 25 clips in batches of 2, two epochs; validation after 6 and 12 batches of each
FOREVER = 120  # seconds that no fit here takes
ORPHANED = 15  # seconds in which a worker finds that its fit is gone: it looks every five

# One life each: the fit dies at this point, when it comes there for the nth time in this life; see `killed_fits.Death`.
DEATHS = [
    ("on_train_start", 1),  # nothing is saved yet
    ("on_train_batch_start", 4),  # in the middle of a shard
    ("open", 4),  # at the beginning of the next one
    ("on_before_optimizer_step", 2),
    ("write", 2),  # with half a checkpoint next to the whole one
    ("rename", 2),
    ("renamed", 2),
    ("on_validation_batch_start", 2),
    ("on_train_epoch_end", 1),
    ("on_train_batch_start", 1),  # the first of the next epoch
    ("write", 1),
    ("on_validation_start", 1),
    ("open", 3),
    ("on_validation_end", 1),
    ("on_train_end", 1),  # when all is done
]


@pytest.fixture(scope="module")
def processes():
    """Starts processes that have loaded everything before they begin."""
    context = multiprocessing.get_context("forkserver")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
        context.set_forkserver_preload(["killed_fits"])
        warm = context.Process(target=abs, args=(0,))
        warm.start()
        warm.join()
    return context.Process


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    write_shapes(folder / "train", num=25, size=16, frames=8, shard_size=3)
    write_shapes(folder / "val", num=5, size=16, frames=8, shard_size=3, split="val")
    return folder


class Fit:
    """A training run in a folder, which a process starts or resumes, again and again."""

    def __init__(self, processes, folder, shards, model, workers, every, epochs=2) -> None:
        folder.mkdir(parents=True)
        self.processes, self.folder = processes, folder
        self.last, self.diary = folder / "last.ckpt", folder / "diary.jsonl"
        data = {
            "train_shards": str(shards / "train"),
            "val_shards": str(shards / "val"),
            "num_frames": 6,
            "size": 16,
            "batch_size": 2,
            "num_workers": workers,
            "shuffle_buffer": 3,
        }
        self.content = {
            "seed_everything": 3,
            "model": model,
            "data": {"class_path": "WebVidDataModule", "init_args": data},
            "trainer": {
                "accelerator": "cpu",
                "max_epochs": epochs,
                "val_check_interval": 0.5,
                "logger": False,
                "default_root_dir": str(folder),
                "enable_progress_bar": False,
                "enable_model_summary": False,
                "callbacks": [
                    {"class_path": "EMA"},
                    {"class_path": "killed_fits.Diary", "init_args": {"path": str(self.diary)}},
                    {"class_path": "LastCheckpoint", "init_args": {"folder": str(folder), "every_n_steps": every}},
                ],
            },
        }

    def start(self, *death):
        """A process that resumes the training, and dies at a given place."""
        content = json.loads(json.dumps(self.content))
        if death:
            killer = {"class_path": "killed_fits.Death", "init_args": dict(zip(("point", "n"), death, strict=True))}
            content["trainer"]["callbacks"].append(killer)
        config = self.folder / "config.yaml"
        config.write_text(yaml.safe_dump(content))
        arguments = ["fit", "-c", str(config), "--ckpt_path", "last"]
        process = self.processes(target=live, args=(arguments, str(self.folder / "log.txt")))
        process.start()
        return process

    def live(self, *death) -> None:
        """Resumes to the end, or to the expected death."""
        process = self.start(*death)
        process.join(FOREVER)
        expected = {"write": -signal.SIGXFSZ}.get(death[0], -signal.SIGKILL) if death else 0
        assert process.exitcode == expected, (death, (self.folder / "log.txt").read_text()[-3000:])

    def lines(self) -> int:
        """How much the diary holds."""
        return len(self.diary.read_text().splitlines()) if self.diary.exists() else 0

    def seen(self) -> dict[tuple, list]:
        """What the diary holds by step; what was done twice was twice the same."""
        seen: dict[tuple, list] = {}
        for line in self.diary.read_text().splitlines():
            step, what, *facts = json.loads(line)
            assert seen.setdefault((step, what), facts) == facts, (step, what)
        return seen

    def end(self) -> dict:
        """What the last checkpoint holds."""
        return torch.load(self.last, weights_only=True)


def assert_equal_ends(killed: Fit, whole: Fit, steps: int = STEPS) -> None:
    """Both saw the same clips at the same steps, and hold the same at the end."""
    seen, expected = killed.seen(), whole.seen()
    assert {entry: facts for entry, facts in seen.items() if entry[1] == "train"} == {
        entry: facts for entry, facts in expected.items() if entry[1] == "train"
    }
    # Lightning does not repeat a validation in which it died, so one may be missing.
    assert all(expected[entry] == facts for entry, facts in seen.items())
    one, other = killed.end(), whole.end()
    assert one["global_step"] == other["global_step"] == steps
    for part in ("state_dict", "ema", "optimizer_states", "lr_schedulers", "WebVidDataModule"):
        assert_same(one[part], other[part], part)


@pytest.fixture(scope="module")
def models(processes, shards, tmp_path_factory):
    """The three components by name; two of them on an autoencoder that was trained for an epoch."""
    first = Fit(processes, tmp_path_factory.mktemp("first") / "autoencoder", shards, AUTOENCODER, 0, 100, epochs=1)
    first.live()
    return {"autoencoder": AUTOENCODER, "content": content(first.last), "motion": motion(first.last)}


def content(autoencoder) -> dict:
    unet = {"block_out_channels": [8, 16], "layers_per_block": 1, "attention_head_dim": 2}
    return {
        "class_path": "ContentDiffusion",
        "init_args": {
            "autoencoder": str(autoencoder),
            "network": {"class_path": "cmd_lightning.zoo.content.unet.unet", "init_args": unet},
            "condition": {"class_path": "ClassEncoder", "init_args": {"num_classes": 4, "dim": 8}},
            "condition_dropout": 0.5,
        },
    }


@pytest.fixture(scope="module")
def whole(processes, shards, models, tmp_path_factory):
    """An uninterrupted run, by component and workers."""
    made = {}

    def make(component, workers, **options):
        if (component, workers, *options) not in made:
            folder = tmp_path_factory.mktemp("whole") / "fit"
            fit = Fit(processes, folder, shards, models[component], workers, every=1, **options)
            fit.live()
            made[component, workers, *options] = fit
        return made[component, workers, *options]

    return make


NORMAL = ("autoencoder", 0, 1)  # the quickest; its epochs end with a checkpoint


@pytest.mark.parametrize(
    ("component", "workers", "every"),
    [
        pytest.param(*case, marks=[] if case == NORMAL else pytest.mark.slow)
        for case in itertools.product(("autoencoder", "content", "motion"), (0, 2), (1, 2))
    ],
)
def test_killed_at_each_boundary(processes, shards, models, whole, tmp_path, component, workers, every):
    fit = Fit(processes, tmp_path / "fit", shards, models[component], workers, every)
    for death in DEATHS:
        fit.live(*death)
    fit.live()
    assert_equal_ends(fit, whole(component, workers))


@pytest.mark.slow
def test_killed_twenty_times_at_random(processes, shards, models, whole, tmp_path):
    """From the first moments of a process to some steps on; nor do its loader's workers outlive it for long."""
    chance = random.Random(5)
    fit = Fit(processes, tmp_path / "fit", shards, models["motion"], workers=2, every=2, epochs=4)
    killed = {}
    for life in range(20):
        process = fit.start()
        if life % 4:
            wanted = fit.lines() + chance.randint(1, 6)
            wait_until(lambda wanted=wanted: fit.lines() >= wanted)
            time.sleep(chance.uniform(0, 0.1))
        else:
            time.sleep(chance.uniform(0, 1.5))
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert process.exitcode == -signal.SIGKILL  # it had not ended by itself
        killed[process.pid] = time.monotonic()
        assert not [pid for pid, when in killed.items() if time.monotonic() - when > ORPHANED and is_alive(pid)]
    wait_until(lambda: not any(map(is_alive, killed)), killed[process.pid] + ORPHANED - time.monotonic())
    fit.live()
    assert_equal_ends(fit, whole("motion", 2, epochs=4), 2 * STEPS)


def wait_until(happened, seconds=FOREVER) -> None:
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def is_alive(group: int) -> bool:
    """Whether a process of this group is left."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True
