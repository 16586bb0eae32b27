"""The last resort against a clip that FFmpeg does not finish: the process ends, and names the clip."""

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

SECONDS = 300.0  # CPU time for a clip: ten times what the largest that is not rejected takes
_SLICES = 20  # how often a limit is looked at before it is reached


class Watchdog:
    """Ends the process when something takes too much CPU time: Python cannot interrupt a library.

    It counts CPU time, not that of the clock, so that a stopped process or a slow disk ends nothing.
    """

    def __init__(self, seconds: float = SECONDS) -> None:
        self._seconds = seconds
        self._watched: tuple[str, float] | None = None
        self._process = 0  # in which the thread runs: a forked child does not have it

    @contextmanager
    def watch(self, name: str) -> Iterator[None]:
        """Watch what the block does, under a name for the error."""
        if self._process != os.getpid():
            self._process = os.getpid()
            threading.Thread(target=self._run, daemon=True).start()
        self._watched = name, time.process_time()
        try:
            yield
        finally:
            self._watched = None

    def _run(self) -> None:
        while True:
            time.sleep(self._seconds / _SLICES)
            watched = self._watched
            if watched and time.process_time() - watched[1] > self._seconds:
                words = f"takes more than {self._seconds:g} seconds to decode, so this process ends; remove it"
                print(f"{watched[0]}: {words}", file=sys.stderr, flush=True)
                os._exit(1)
