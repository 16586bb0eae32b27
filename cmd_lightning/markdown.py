"""Tables in Markdown."""

from collections.abc import Iterable, Sequence


def table(head: Sequence[object], rows: Iterable[Sequence[object]]) -> str:
    """A table, without a newline at its end.

    Args:
        head: The names of the columns.
        rows: Their fields; None is an empty one.
    """
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join("" if field is None else str(field) for field in line) + " |" for line in lines)
