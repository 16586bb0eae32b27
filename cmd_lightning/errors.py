"""The one exception for what a user can mend."""

import re
import sys
from collections.abc import Callable


class InputError(ValueError):
    """A wrong option, file or combination, told on one line: the option, its value, the remedy.

    The command line prints it without a traceback and exits with code 2; in Python it is a `ValueError`.
    """


def reason(error: BaseException) -> str:
    """What an error of a library says, on one line without colours and cut where it gets long; else its type."""
    text = re.sub(r"\x1b\[[\d;]*m", "", str(error))
    return " ".join(text.split())[:160] or type(error).__name__


def program(main: Callable[[], int | None]) -> None:
    """Runs the main function of a script and ends the process: with its code, or 2 and one line for an `InputError`."""
    try:
        sys.exit(main())
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
