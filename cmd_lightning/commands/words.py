"""The options on the command line of `fit`, `validate`, `test` and `predict`, read without a parser."""

from __future__ import annotations

from collections.abc import Iterator, Sequence


def options(words: Sequence[str], without: Sequence[str] = ()) -> Iterator[list[str]]:
    """The options of a command line, each with its values."""
    group: list[str] = []
    for word in [*words, "-"]:
        if word.startswith("-") and not word[1:2].isdigit():
            if group and group[0].startswith("-") and group[0].partition("=")[0] not in without:
                yield group
            group = []
        group.append(word)


def pairs(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    """The options of a command line by name, each with its last value; "" for one without."""
    for first, *values in options(words):
        name, equals, value = first.partition("=")
        yield name, value if equals else ["", *values][-1]


def values_of(words: Sequence[str], *names: str) -> list[str]:
    """The values of an option that may be given several times, under any of its names."""
    return [value for name, value in pairs(words) if name in names]
