"""The one exception for what a user can mend."""

import sys
from collections.abc import Callable


class InputError(ValueError):
    """A wrong option, file or combination, told on one line: the option, its value, the remedy.

    The command line prints it without a traceback and exits with code 2; in Python it is a `ValueError`.
    """


def program(main: Callable[[], int | None]) -> None:
    """Runs the main function of a script and ends the process: with its code, or 2 and one line for an `InputError`."""
    try:
        sys.exit(main())
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
