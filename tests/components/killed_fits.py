"""The processes that `test_killed` kills: training that records its samples, and dies at a given place.

Importing it loads all libraries of a training run, so that forks of this process start at once.
"""

import hashlib
import json
import multiprocessing
import os
import resource
import signal
import sys

import torch
from lightning.pytorch import Callback
from streams import speak_into

from cmd_lightning import zoo
from cmd_lightning.cli import main
from cmd_lightning.commands import training  # noqa: F401  # imported here and not in each process

zoo.import_all()


class Diary(Callback):
    """Appends a line for each batch before it is used, and for each validation when it has ended.

    Args:
        path: File of JSON lines: [step, "train", epoch, keys, hash of the clips] or [step, "val", epoch, {}, losses].
    """

    def __init__(self, path: str) -> None:
        self.path = path

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        clips = hashlib.sha256(batch["video"].numpy().tobytes()).hexdigest()
        self._write(trainer, "train", batch["key"], clips)

    def on_validation_end(self, trainer, pl_module) -> None:
        if not trainer.sanity_checking:
            losses = {k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("val/")}
            self._write(trainer, "val", losses)

    def _write(self, trainer, what, *facts) -> None:
        line = json.dumps([trainer.global_step, what, trainer.current_epoch, *facts]) + "\n"
        with open(self.path, "a", encoding="utf-8") as file:  # one write of one short line: whole, or not at all
            file.write(line)


class Death(Callback):
    """Kills the process when a point is reached for the nth time in its life: no handler, no `finally`, no flush.

    Args:
        point: A hook of a callback, or "open": a shard of the training data is opened, in this process or in one of
            its loader's workers; "write": in the middle of the file of a checkpoint; "rename", "renamed": before and
            after it gets its name.
        n: Which time; "open" is counted in each worker by itself.
    """

    def __init__(self, point: str, n: int = 1) -> None:
        self.left = n
        self.process = os.getpid()
        if point == "open":
            sys.addaudithook(self._opened)  # whatever module it is that opens them
        elif point == "write":
            self.on_save_checkpoint = self._writing
        elif point in ("rename", "renamed"):
            for name in ("rename", "replace"):
                setattr(os, name, self._renaming(getattr(os, name), after=point == "renamed"))
        elif hasattr(self, point):
            setattr(self, point, self._hook)
        else:
            raise ValueError(point)

    def _hook(self, trainer, *_) -> None:
        if not trainer.sanity_checking:
            self._reached()

    def _reached(self) -> None:
        self.left -= 1
        if self.left == 0:
            os.kill(self.process, signal.SIGKILL)  # the fit, also where a worker finds itself here

    def _opened(self, event, arguments) -> None:
        if event == "open" and str(arguments[0]).endswith(".tar") and "train" in str(arguments[0]):
            self._reached()

    def _writing(self, *_) -> None:
        """The kernel kills a process whose file grows beyond the limit; nothing is left to chance or to Python."""
        self.left -= 1
        if self.left == 0:
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))

    def _renaming(self, rename, after: bool):
        def renaming(source, target, **options):
            if not str(target).endswith("last.ckpt"):
                return rename(source, target, **options)
            if not after:
                self._reached()
            rename(source, target, **options)
            if after:
                self._reached()

        return renaming


def live(arguments: list[str], log: str) -> None:
    """Runs the program in this process, which leads a new group, with its output in a file."""
    os.setpgid(0, 0)
    speak_into(log)
    multiprocessing.set_start_method("fork", force=True)  # for the loader's workers, as in `fit` from the command line
    torch.set_num_threads(1)
    sys.exit(main(arguments))
