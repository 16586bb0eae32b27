"""Which samples of shards are read: those that meet conditions on their metadata, with or without still images."""

import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any, BinaryIO

from cmd_lightning.data.clips import BadSample, read_caption, read_facts
from cmd_lightning.data.plan import stable_hash
from cmd_lightning.data.stages import name_of
from cmd_lightning.data.tar import NO_VIDEO, STILL, Sample, read_samples
from cmd_lightning.errors import InputError

Facts = dict[str, Any]

_MEETS: dict[str, Callable[[Any, Any], bool]] = {
    "min": lambda value, bound: _is_number(value) and value >= bound,
    "max": lambda value, bound: _is_number(value) and value <= bound,
    "equals": lambda value, other: value == other,
    "in": lambda value, others: value in others,
    "matches": lambda value, pattern: re.search(pattern, str(value)) is not None,
}


@dataclass(frozen=True)
class Selection:
    """Chooses samples by their facts, which are the entries of the json, and "caption".

    A sample must meet all conditions of `where`, `{"width": {"min": 512}}`: `min` and `max` of numbers, `equals`, `in`
    a list, `matches` a regular expression anywhere in the text. It may also be a function of all facts; None takes
    every sample.

    Raises:
        InputError: A condition is unknown or cannot be checked.
    """

    where: Mapping[str, Mapping[str, Any]] | Callable[[Facts], bool] | None = None
    images: bool = False  # whether samples with a still image and no video are samples, too

    def __post_init__(self) -> None:
        if not isinstance(self.where, Mapping):
            return
        for name, conditions in self.where.items():
            if not (isinstance(conditions, Mapping) and conditions and conditions.keys() <= _MEETS.keys()):
                known = ", ".join(_MEETS)
                raise InputError(f"data.select {name} {conditions}: give conditions of {known}, e.g. {{min: 5}}")
            for condition, value in conditions.items():
                try:
                    _MEETS[condition](0, value)
                except (TypeError, re.error) as error:
                    raise InputError(f"data.select {name} {condition} {value}: cannot be compared ({error})") from error

    @cached_property
    def fingerprint(self) -> str:
        """What a choice that was made holds for: the conditions, or the source of the function."""
        where: Any = self.where
        if callable(where):
            function, where = where, name_of(where)
            with suppress(OSError, TypeError):  # typed into a session, or an object
                where += inspect.getsource(function)
        return f"{stable_hash(where, self.images):016x}"

    def choose(self, file: BinaryIO, known_bad: Mapping[str, str]) -> list[bool]:
        """For each sample of a shard, in the order of the file, whether it is taken; no video is read."""
        usable: set[str | None] = {None, NO_VIDEO, STILL} if self.images else {None}
        return [
            not sample.fault and known_bad.get(sample.key) in usable and self._takes(sample)
            for sample in read_samples(file, images=self.images)
        ]

    def why_none(self, files: Iterable[BinaryIO]) -> str:
        """Why no sample of shards is taken, with the names of facts that there are if one of the conditions is not."""
        if not isinstance(self.where, Mapping):
            return "no sample meets it; loosen it"
        samples = (sample for file in files for sample in read_samples(file, images=self.images))
        there = {name for sample in samples for name in facts_of(sample) or ()}
        if lacking := [name for name in self.where if name not in there]:
            return f"no sample has {', '.join(lacking)}; there are {', '.join(sorted(there))}"
        return "no sample meets all conditions; loosen them"

    def _takes(self, sample: Sample) -> bool:
        if self.where is None:
            return True
        facts = facts_of(sample)
        if facts is None:
            return False
        if isinstance(self.where, Mapping):
            return all(
                name in facts and _MEETS[condition](facts[name], value)
                for name, conditions in self.where.items()
                for condition, value in conditions.items()
            )
        try:
            return bool(self.where(facts))
        except Exception as error:  # of a user's function
            problem = f"data.select {name_of(self.where)}: fails on {sample.key} ({error!r})"
            raise InputError(f"{problem}; let it return true or false") from error


def facts_of(sample: Sample) -> Facts | None:
    """The entries of a sample's json, and "caption"; None where they cannot be read. No video is read."""
    try:
        members = sample.read({"txt", "json"})
        facts = read_facts(members)
    except BadSample:
        return None
    return facts | {"caption": read_caption(members, facts)}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
