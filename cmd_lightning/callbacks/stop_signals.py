"""Signals that ask a fit to end: noted when they come, obeyed when a step is whole."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from types import FrameType

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.plugins.environments import SLURMEnvironment

from cmd_lightning.compat import cluster_environment


class StopSignals:
    """Records SIGTERM, Ctrl-C and SIGUSR1 (under SLURM the environment's `requeue_signal`) during a fit.

    Lightning's own handlers save from within the handler, amid a step, and wait there for other processes. These only
    note the signal. A second SIGTERM or Ctrl-C ends the process at once. Lightning puts the handlers of before back
    when the fit ends, also by an exception.
    """

    def __init__(self) -> None:
        self._received = 0

    def watch(self, trainer: Trainer) -> None:
        """Begins to note signals, in the main thread only: others may not. Lightning must have set its handlers."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT, _requeue_signal(trainer)):
                signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._received = self._received or number
        # No print: a handler may interrupt one.
        os.write(2, f"cmd-lightning: {signal.Signals(number).name}: the fit ends after this step\n".encode())
        if number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)

    def received(self, trainer: Trainer) -> int:
        """The signal that any of the processes has received, 0 if none has; to be asked by all at the same step."""
        if trainer.world_size == 1:
            return self._received
        number = torch.tensor(self._received, device=trainer.strategy.root_device)
        return int(trainer.strategy.reduce(number, reduce_op="max"))

    @staticmethod
    def requeue(trainer: Trainer, number: int) -> None:
        """Puts the SLURM job back into the queue, if `number` is the signal for that and `auto_requeue` is on."""
        environment = cluster_environment(trainer)
        if not (isinstance(environment, SLURMEnvironment) and environment.auto_requeue):
            return
        if number != environment.requeue_signal or not trainer.is_global_zero:
            return
        job = os.environ["SLURM_JOB_ID"]
        if "SLURM_ARRAY_JOB_ID" in os.environ:
            job = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
        try:
            subprocess.run(["scontrol", "requeue", job], check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            print(f"cmd-lightning: the job is not requeued ({error}); submit it again", file=sys.stderr)


def _requeue_signal(trainer: Trainer) -> int:
    environment = cluster_environment(trainer)
    own = environment.requeue_signal if isinstance(environment, SLURMEnvironment) else None
    return own or signal.SIGUSR1
