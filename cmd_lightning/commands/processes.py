"""A quiet Trainer for commands on several devices and nodes, and how it ends."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from cmd_lightning.errors import InputError, reason
from cmd_lightning.progress import progress

if TYPE_CHECKING:
    from lightning import Callback, Trainer


def check_nodes(nodes: int) -> None:
    """Reject several nodes if nothing starts a process on each."""
    if nodes > 1 and not {"TORCHELASTIC_RUN_ID", "SLURM_JOB_ID"} & set(os.environ):
        raise InputError(f"--nodes {nodes}: start it on each node with torchrun or SLURM's srun")


def clip_bar(clips: int) -> Callback:
    """A callback that shows the progress of a `test` in clips, on the first process, in a terminal."""
    from lightning import Callback

    class ClipBar(Callback):
        def on_test_start(self, trainer: Any, pl_module: Any) -> None:
            self.open = ExitStack()
            if trainer.is_global_zero:
                total = -(-clips // trainer.world_size)  # rounded up
                self.add = self.open.enter_context(progress("evaluating", total))

        def on_test_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, *_: Any) -> None:
            if trainer.is_global_zero:
                self.add(sum(len(clips.get("key", ())) for clips in batch.values()))

        def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
            self.open.close()

        def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
            self.open.close()

    return ClipBar()


@contextmanager
def interruptible() -> Iterator[None]:
    """Makes Ctrl-C end a Trainer with `KeyboardInterrupt`; Lightning would exit with code 1."""
    try:
        yield
    except SystemExit as error:
        if isinstance(error.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from None
        raise


@contextmanager
def quiet_trainer(devices: int, nodes: int, **options: Any) -> Iterator[Trainer]:
    """A Trainer that logs and saves nothing and does not change the sampler; it prints to standard error."""
    from lightning import Trainer
    from lightning.pytorch.strategies import DDPStrategy
    from lightning.pytorch.utilities.exceptions import MisconfigurationException

    from cmd_lightning import compat

    with redirect_stdout(sys.stderr), warnings.catch_warnings():
        for message in (compat.FEW_WORKERS, compat.TREESPEC):
            warnings.filterwarnings("ignore", message=message)
        logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.WARNING)  # hides unused devices
        uneven = timedelta(weeks=4)  # a barrier must wait for the slowest process
        try:
            trainer = Trainer(
                devices=devices,
                num_nodes=nodes,
                strategy=DDPStrategy(timeout=uneven) if devices * nodes > 1 else "auto",
                logger=False,
                enable_checkpointing=False,
                enable_model_summary=False,
                use_distributed_sampler=False,
                **options,
            )
        except MisconfigurationException as error:
            raise InputError(f"--devices {devices}, --nodes {nodes}: {reason(error)}") from error
        with interruptible():
            yield trainer
