"""Messages and progress bars on standard error."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, Thread

from tqdm import tqdm

INTERVAL = 0.5
"""Seconds between two refreshes."""


def notify(text: str) -> None:
    """A line for the user about a training run, on standard error."""
    print(f"cmd-lightning: {text}", file=sys.stderr, flush=True)


@contextmanager
def progress(text: str, total: int | None = None) -> Iterator[Callable[[int], object]]:
    """A progress bar on standard error, refreshed twice per second; only in a terminal.

    Args:
        text: Description of the work.
        total: Number of steps; without it, only the time so far is shown.

    Yields:
        A function to call with the number of steps done.
    """
    form = (
        "{desc}: {elapsed}"
        if total is None
        else "{desc}: {percentage:3.0f} %|{bar}| {n_fmt}/{total_fmt}, {remaining} left"
    )
    with tqdm(total=total, desc=text, bar_format=form, leave=False, disable=None, dynamic_ncols=True) as bar:
        ended = Event()

        def renew() -> None:
            while not ended.wait(INTERVAL):
                bar.refresh()

        thread = Thread(target=renew, daemon=True)
        thread.start()
        try:
            yield bar.update
        finally:
            ended.set()
            thread.join()
