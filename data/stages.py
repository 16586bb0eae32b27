"""The user's stages: any of webdataset's, or any function from an iterator of samples to another, of equal length."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from webdataset.writer import default_handlers, encode_based_on_extension1

from cmd_lightning.data.clips import BadSample
from cmd_lightning.data.tar import READ, Sample
from cmd_lightning.errors import InputError

Stage = Callable[[Iterator[dict[str, Any]]], Iterable[dict[str, Any]]]


class Stages:
    """Passes samples through stages, as webdataset's dictionaries: "__key__", "__url__", and bytes by suffix.

    A stage gets them in the order of the epoch, with all members in memory. It may change, replace and reorder them,
    but not their number, which the plan of an epoch has fixed. It begins each pass as it was given, so that what it
    draws from a seed is the same after a resume. A sample that cannot be read passes by and comes last.

    Raises:
        InputError: A stage gives more or fewer samples than it gets, or something else.
    """

    def __init__(self, stages: Sequence[Stage]) -> None:
        self._stages = list(stages)
        self.names = [name_of(stage) for stage in stages]

    def __call__(self, samples: Iterable[Sample]) -> Iterator[Sample]:
        """Yield what the last stage makes of the samples; without any stage, the samples, which are not read."""
        if not self._stages:
            yield from samples
            return
        unreadable: list[Sample] = []
        passing: Iterable[dict[str, Any]] = _members(samples, unreadable)
        for name, stage in zip(self.names, deepcopy(self._stages), strict=True):
            passing = _counted(name, stage, passing)
        yield from map(_staged, passing)
        yield from unreadable


def importable(name: str | Callable[..., Any], option: str) -> Callable[..., Any]:
    """The function or object of a name such as "package.module.function"; raises `InputError` naming the `option`."""
    found: Any = name
    if isinstance(name, str):
        module, _, attribute = name.rpartition(".")
        try:
            found = getattr(import_module(module), attribute)
        except (ImportError, AttributeError, ValueError) as error:
            raise InputError(
                f"{option} {name}: cannot be imported ({error}); give package.module.function, with the package in the "
                "working directory or installed"
            ) from error
    if not callable(found):
        raise InputError(f"{option} {name}: is a {type(found).__name__}, which cannot be called; name a function")
    return found


def name_of(function: Callable[..., Any]) -> str:
    """What errors call a function, or an object that can be called, such as `webdataset.map(f)`."""
    inner = getattr(function, "f", function)  # of webdataset's own
    known = inner if hasattr(inner, "__qualname__") else type(inner)
    return f"{known.__module__}.{known.__qualname__}"


@dataclass(frozen=True)
class _Staged(Sample):
    """A sample as the stages made it."""

    held: dict[str, Any] = field(default_factory=dict)

    def read(self, suffixes: object = READ) -> dict[str, Any]:
        return self.held


def _members(samples: Iterable[Sample], unreadable: list[Sample]) -> Iterator[dict[str, Any]]:
    for sample in samples:
        try:
            yield sample.read() | {"__url__": sample.url}
        except BadSample:
            unreadable.append(sample)


def _counted(name: str, stage: Stage, samples: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    given = taken = 0

    def giving() -> Iterator[dict[str, Any]]:
        nonlocal given
        for sample in samples:
            given += 1
            yield sample

    made = stage(giving())
    if not isinstance(made, Iterable):
        raise InputError(
            f"data.stages {name}: returns a {type(made).__name__}, not an iterator over samples; give a function from "
            "an iterator to an iterator, or from Python for example webdataset.map(function)"
        )
    for sample in made:
        taken += 1
        if taken > given:
            break
        yield sample
    if taken != given:
        raise InputError(
            f"data.stages {name}: gives {taken} samples for {given}, and a stage must keep their number; leave samples "
            "out with data.select, repeat them with weights of data.train_shards"
        )


def _staged(members: dict[str, Any]) -> Sample:
    if not isinstance(members, dict) or not isinstance(members.get("__key__"), str):
        raise InputError(
            f"data.stages: gave a {type(members).__name__} without a text as __key__; give samples as dictionaries"
        )
    key = members["__key__"]
    held = {"__key__": key}
    for name in members.keys() & READ:
        try:
            held[name] = encode_based_on_extension1(members[name], name, default_handlers)
        except Exception as error:  # of whatever makes bytes of this kind
            kind = type(members[name]).__name__
            raise InputError(
                f"data.stages: {name} of {key} is a {kind}, which has no form as bytes; give bytes"
            ) from error
    return _Staged(key, place=f"{members.get('__url__', '')} {key}", held=held)
