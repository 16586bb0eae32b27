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


def aligned(text: str) -> str:
    """Markdown with the columns of its table padded to one width, as a terminal shows them."""
    lines = text.split("\n")
    rows = [line.strip("|").split("|") for line in lines if line.startswith("|")]
    widths = [max(len(field.strip()) for field in column) for column in zip(*rows, strict=True)]
    for number, line in enumerate(lines):
        if line.startswith("|"):
            fields = [field.strip() for field in line.strip("|").split("|")]
            fill = "-" if set("".join(fields)) == {"-"} else " "
            padded = (field.ljust(width, fill) for field, width in zip(fields, widths, strict=True))
            lines[number] = f"| {' | '.join(padded)} |"
    return "\n".join(lines)
