"""Commands that another command runs in its process; each is printed, so that you could run it yourself."""

from __future__ import annotations

import shlex
import time
from typing import Any

from cmd_lightning.cli import PROGRAM, main


def call(*words: object) -> dict[str, Any]:
    """Prints a command, runs it, and returns it with its time in seconds.

    Raises:
        SystemExit: It ended with another code than 0; it has printed the reason.
    """
    arguments = [str(word) for word in words]
    command = shlex.join([PROGRAM, *arguments])
    print(f"\n$ {command}", flush=True)
    start = time.perf_counter()
    if code := main(arguments):
        raise SystemExit(code)
    return {"command": command, "seconds": round(time.perf_counter() - start, 1)}
