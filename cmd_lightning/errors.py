"""The one exception for what a user can mend."""


class InputError(ValueError):
    """A wrong option, file or combination, told on one line: the option, its value, the remedy.

    The command line prints it without a traceback and exits with code 2; in Python it is a `ValueError`.
    """
