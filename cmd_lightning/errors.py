"""The one exception for what a user can fix, and hints at what was meant."""

import difflib
import re
import sys
from collections.abc import Callable, Iterable


class InputError(ValueError):
    """A wrong option, file or combination, in one line: the option, its value, the remedy.

    The command line prints it without a traceback and exits with code 2; in Python it is a `ValueError`.
    """


class InputWarning(UserWarning):
    """An input is changed before use: a prompt is truncated, an image is resized."""


def reason(error: BaseException) -> str:
    """What an error of a library says, on one line without colours and cut where it gets long; else its type."""
    text = re.sub(r"\x1b\[[\d;]*m", "", str(error))
    return " ".join(text.split())[:160] or type(error).__name__


def check_positive(**values: int) -> None:
    """Raises an `InputError` for the first of the named values that is less than 1."""
    check_at_least(1, **values)


def check_at_least(least: int, /, **values: int) -> None:
    """Raises an `InputError` for the first of the named values that is less than `least`."""
    for name, value in values.items():
        if value < least:
            raise InputError(f"{name} {value}: must be at least {least}; give a greater whole number")


def nearest(word: str, choices: Iterable[str], otherwise: str | None = None, path: str = "") -> str:
    """A hint at the choice that was probably meant.

    Args:
        word: The given word; if it is one of the choices itself, another one is suggested.
        choices: The possible choices; a match that differs in upper and lower case counts too.
        otherwise: The hint where none is near; by default all choices.
        path: Written before the choice in the hint.
    """
    known = [choice for choice in choices if choice != word]
    folded = {choice.lower(): choice for choice in known}
    near = difflib.get_close_matches(word, known, n=1)
    if near := near or [folded[match] for match in difflib.get_close_matches(word.lower(), folded, n=1)]:
        return f"did you mean {path}{near[0]}?"
    return f"there are {', '.join(known)}" if otherwise is None else otherwise


def program(main: Callable[[], int | None]) -> None:
    """Runs the main function of a script and ends the process: with its code, or 2 and one line for an `InputError`."""
    try:
        sys.exit(main())
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
