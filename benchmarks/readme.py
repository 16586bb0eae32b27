"""Writes generated text: blocks of pages, and `parameters` and `naturalness` in the zoo's cards.

    python -m benchmarks.readme            # after a measurement, a new card, a new claim
    python -m benchmarks.readme --check    # only says what is not current, with code 2

A block (such as the claims ledger, the zoo's table, the leaderboard) is between the comments "begin NAME: python -m
benchmarks.readme" and "end NAME". Parameters are counted on the meta device; naturalness is measured by
`benchmarks.shapes.content`. A card's other fields stay as they are.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from benchmarks import dataloader, ledger, sampling
from benchmarks.cells import command_line, read
from benchmarks.efficiency import tables
from benchmarks.shapes import content
from cmd_lightning import markdown, zoo
from cmd_lightning.commands.zoo import TITLES, short
from cmd_lightning.errors import InputError, program
from cmd_lightning.ranking import leaderboard
from cmd_lightning.zoo import Entry
from cmd_lightning.zoo.card import with_field
from cmd_lightning.zoo.sizes import count_parameters

BLOCK = re.compile(r"(<!-- begin (\w+): python -m benchmarks\.readme -->\n).*?(<!-- end (\w+) -->)", re.DOTALL)
PAGES = (Path("README.md"), *sorted(Path("docs").rglob("*.md")))
FILES = tuple(path for path in PAGES if BLOCK.search(path.read_text(encoding="utf-8")))
"""The pages with blocks, from the top of the checkout."""


def zoo_table() -> str:
    """Every entry of the zoo, by kind, as a Markdown table; links are from `docs/`."""
    rows = []
    for kind, title in TITLES.items():
        for number, entry in enumerate(zoo.entries(kind)):
            file = entry.module.removeprefix("cmd_lightning.").replace(".", "/")
            link = f"../{file}.py" if file else f"../zoo/cards/{entry.name}.md"
            what = entry.card.what.rstrip(".") + (f" ([config](../{entry.card.config}))" if entry.card.config else "")
            rows.append((None if number else title, f"[`{entry.name}`]({link})", what, short(entry.card.total)))
    return markdown.table(("", "name", "what", "parameters"), rows)


BLOCKS: Mapping[str, Callable[[], str]] = {
    "claims": ledger.table,
    "zoo": zoo_table,
    "ledger": ledger.shortened,
    "leaderboard": lambda: leaderboard.table(leaderboard.ranked()),
    "counts": tables.counted,
    "fifth": partial(tables.measured, "fifth"),
    "shapes32": partial(tables.measured, "shapes32"),
    "dataloader": lambda: dataloader.table(read(tables.RESULTS / "dataloader.json")),
    "content": lambda: content.comparison(read(content.RESULTS)["rows"]),
    "sampling": lambda: sampling.table(read(tables.RESULTS / "sampling.json")),
}


def written(text: str, path: Path) -> str:
    """A text with its blocks generated again."""

    def made(match: re.Match[str]) -> str:
        begin, name, end, ended = match.groups()
        if name not in BLOCKS or ended != name:
            raise InputError(
                f"{path}: block {name}: give one of {', '.join(BLOCKS)}, and `<!-- end {name} -->` after it"
            )
        return f"{begin}{BLOCKS[name]()}\n{end}"

    return BLOCK.sub(made, text)


def counted(text: str, of: Entry) -> str:
    """The card of a network, with its parameters as they are now and its measured naturalness."""
    text = with_field(text, "parameters", count_parameters(of))
    measured = content.naturalness(of.name, read(content.RESULTS)["rows"]) if of.kind == "autoencoder" else {}
    return with_field(text, "naturalness", measured) if measured else text


def main() -> int:
    """The command line."""
    parser = command_line(__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing")
    check = parser.parse_args().check
    cards = [entry for entry in zoo.entries() if entry.kind != "model" and entry.card_path.is_file()]
    makers: dict[Path, Callable[[str], str]] = {entry.card_path: partial(counted, of=entry) for entry in cards}
    makers |= {path: partial(written, path=path) for path in FILES}  # after the cards, which they quote
    for path, make in makers.items():
        old = path.read_text(encoding="utf-8")
        new = make(old)
        if new != old and check:
            raise InputError(f"{path}: it is not current; run python -m benchmarks.readme")
        if new != old:
            path.write_text(new, encoding="utf-8")
            print(path)
    return 0


if __name__ == "__main__":
    program(main)
