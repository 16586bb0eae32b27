"""The command line's spelling of arguments in errors of the library."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from cmd_lightning.errors import InputError


@contextmanager
def spelled(**options: str) -> Iterator[None]:
    """Replaces arguments by options in an error, where it begins with one or has it in backticks.

    Args:
        **options: The option of each argument, as `seeds="--seeds"`.

    Raises:
        InputError: The error of the block, rewritten.
    """
    try:
        yield
    except InputError as error:
        names = "|".join(options)
        found = re.compile(rf"^({names})(?= )|`({names})`")
        raise InputError(found.sub(lambda match: options[match[1] or match[2]], str(error))) from error
