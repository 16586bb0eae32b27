"""A run of `generate` on several devices, one process for each."""

from __future__ import annotations

import importlib
import multiprocessing
import sys

from cmd_lightning.cli import PROGRAM, imports
from cmd_lightning.commands.generation import Run, work
from cmd_lightning.errors import InputError


def spread(run: Run, devices: int) -> None:
    """Runs each batch on one of several GPUs, in turn; without GPUs, in one of several processes.

    Raises:
        InputError: There are fewer GPUs.
        SystemExit: A process failed; it has printed the reason.
    """
    import torch

    if torch.cuda.is_available() and devices > torch.cuda.device_count():
        raise InputError(f"--devices {devices}: this computer has {torch.cuda.device_count()} GPUs; give no more")
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=part_of, args=(run, part, devices, imports())) for part in range(devices)]
    for process in processes:
        process.start()
    try:
        for process in processes:
            process.join()
            if process.exitcode:
                raise SystemExit(process.exitcode)
    finally:
        for process in processes:
            process.terminate()


def part_of(run: Run, part: int, parts: int, modules: list[str]) -> None:
    """Generates the part of one process; `modules` are third-party ones, named by `--import`."""
    import torch

    from cmd_lightning.threads import cores

    for module in modules:
        importlib.import_module(module)
    if torch.cuda.is_available():
        torch.cuda.set_device(part)
    else:
        torch.set_num_threads(max(1, cores() // parts))
    try:
        work(run, part, parts)
    except InputError as error:
        if part == 0:  # the others have the same error
            print(f"{PROGRAM}: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
