"""Writes what is generated: blocks of READMEs, and the `parameters` in the zoo's cards.

    python -m benchmarks.readme            # after a measurement, a new card, a new claim
    python -m benchmarks.readme --check    # only says what is not current, with code 2

A block (such as the claims ledger, the zoo's table, the leaderboard) stands between the comments "begin NAME: python -m
benchmarks.readme" and "end NAME". Parameters are counted on the meta device; a card's other fields stay as they are.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

from benchmarks import ledger, sampling
from benchmarks.cells import command_line, read
from benchmarks.efficiency import tables
from cmd_lightning import markdown, zoo
from cmd_lightning.commands.zoo import TITLES, short
from cmd_lightning.errors import InputError, program
from cmd_lightning.ranking import leaderboard
from cmd_lightning.zoo import Entry
from cmd_lightning.zoo.card import with_field
from cmd_lightning.zoo.sizes import count_parameters

FILES = (Path("README.md"), Path("zoo/README.md"), Path("benchmarks/README.md"))
BLOCK = re.compile(r"(<!-- begin (\w+): python -m benchmarks\.readme -->\n).*?(<!-- end (\w+) -->)", re.DOTALL)


def zoo_table() -> str:
    """Every entry of the zoo, by kind, as a Markdown table."""
    rows = [
        (None if number else title, link(entry), what(entry), short(entry.card.total))
        for kind, title in TITLES.items()
        for number, entry in enumerate(zoo.entries(kind))
    ]
    return markdown.table(("", "name", "what", "parameters"), rows)


def link(entry: Entry) -> str:
    """The name of an entry, as a link to its card or file."""
    path = entry.module.removeprefix("cmd_lightning.").replace(".", "/")
    return f"[`{entry.name}`]({path}.py)" if path else f"[`{entry.name}`](zoo/cards/{entry.name}.md)"


def what(entry: Entry) -> str:
    """The sentence of a card, and where it trains."""
    card = entry.card
    return f"{card.what.rstrip('.')}" + (f" ([config]({card.config}))" if card.config else "")


BLOCKS: Mapping[str, Callable[[], str]] = {
    "claims": ledger.table,
    "zoo": zoo_table,
    "leaderboard": lambda: leaderboard.table(leaderboard.ranked()),
    "counts": tables.counted,
    "fifth": partial(tables.measured, "fifth"),
    "shapes32": partial(tables.measured, "shapes32"),
    "sampling": lambda: sampling.table(read(tables.RESULTS / "sampling.json")),
}
"""What makes a block, by name."""


def written(text: str, path: Path) -> str:
    """A text with its blocks made anew.

    Raises:
        InputError: A block has no maker, or does not end.
    """

    def made(match: re.Match[str]) -> str:
        begin, name, end, ended = match.groups()
        if name not in BLOCKS or ended != name:
            raise InputError(
                f"{path}: block {name}: give one of {', '.join(BLOCKS)}, and `<!-- end {name} -->` after it"
            )
        return f"{begin}{BLOCKS[name]()}\n{end}"

    return BLOCK.sub(made, text)


def counted(text: str, of: Entry) -> str:
    """The card of a network, with its parameters as they are now."""
    return with_field(text, "parameters", count_parameters(of))


def makers() -> Iterator[tuple[Path, Callable[[str], str]]]:
    """Every file that has generated parts, and what makes them anew of its text: cards first, as READMEs quote them."""
    for entry in zoo.entries():
        if entry.kind != "model" and entry.card_path.is_file():
            yield entry.card_path, partial(counted, of=entry)
    for path in FILES:
        yield path, partial(written, path=path)


def main() -> int:
    """The command line."""
    parser = command_line(__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing")
    check = parser.parse_args().check
    for path, made in makers():
        old = path.read_text(encoding="utf-8")
        new = made(old)
        if new != old and check:
            raise InputError(f"{path}: it is not current; run python -m benchmarks.readme")
        if new != old:
            path.write_text(new, encoding="utf-8")
            print(path)
    return 0


if __name__ == "__main__":
    program(main)
