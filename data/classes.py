"""The classes of shards, as the indexes of their folders know them."""

from collections.abc import Sequence
from typing import NamedTuple

from cmd_lightning.data.cache import ShardCache
from cmd_lightning.data.index import place_of, read_index
from cmd_lightning.errors import InputError


class Classes(NamedTuple):
    """The classes of a data set."""

    number: int  # 1 + the largest label; 0 where no index knows any
    names: tuple[str, ...]  # by label; empty where labels are numbers


def read_classes(urls: Sequence[str], remote: ShardCache | None = None) -> Classes:
    """Read what the indexes of shards, as `expand` returns them, say of their classes; no shard is read.

    Raises:
        InputError: Folders give the same label to different classes.
    """
    folders = dict.fromkeys((place.folder, place.query) for place in map(place_of, urls))
    number, names, named_by = 0, (), ""
    for folder, query in folders:
        index = read_index(folder, remote, query)
        number = max(number, index["num_classes"])
        found = tuple(index["classes"])
        if found and names and found != names:
            problem = f"{folder} has the classes {_short(found)}, {named_by} has {_short(names)}"
            raise InputError(f"data: {problem}; pack them together, with a column split or --hold-out")
        if found:
            names, named_by = found, folder
    return Classes(number, names)


def _short(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
