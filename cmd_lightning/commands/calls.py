"""Commands that a command runs: printed, so that you could run them, then run in this process."""

from __future__ import annotations

import shlex
import time
from typing import Any

from cmd_lightning.cli import PROGRAM, main
from cmd_lightning.errors import InputError


def call(*words: object) -> dict[str, Any]:
    """Prints one command, runs it, and gives it with the seconds that it took.

    Raises:
        InputError: It ended with another code than 0; its own message is printed above.
    """
    arguments = [str(word) for word in words]
    command = shlex.join([PROGRAM, *arguments])
    print(f"\n$ {command}", flush=True)
    start = time.perf_counter()
    if code := main(arguments):
        raise InputError(f"{command}: it ended with code {code}; its own message is above")
    return {"command": command, "seconds": round(time.perf_counter() - start, 1)}
