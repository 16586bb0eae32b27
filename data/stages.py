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
    but must keep their number, which the plan of an epoch has fixed. It begins each pass as it was given, so that its
    seeded random values are the same after a resume. A sample that cannot be read bypasses the stages and comes last.

    Raises:
        InputError: A stage gives more or fewer samples than it gets, or something else.
    """

    def __init__(self, stages: Sequence[Stage]) -> None:
        self._stages = list(stages)
        self.names = [name_of(stage) for stage in stages]

    def __call__(self, samples: Iterable[Sample]) -> Iterator[Sample]:
        """Yield the samples of the last stage; without any stage, the samples as they are, not read."""
        if not self._stages:
            yield from samples
            return
        unreadable: list[Sample] = []
        passing: Iterable[dict[str, Any]] = _members(samples, unreadable)
        for name, stage in zip(self.names, deepcopy(self._stages), strict=True):
            passing = _counted(name, stage, passing)
        for members in passing:
            yield _staged(self.names[-1], members)
        yield from unreadable


def importable(name: str | Callable[..., Any], option: str) -> Callable[..., Any]:
    """The function or object of a name such as "package.module.function"; raises `InputError` naming the `option`."""
    found: Any = name
    if isinstance(name, str):
        module, _, attribute = name.rpartition(".")
        try:
            found = getattr(import_module(module), attribute)
        except (ImportError, AttributeError, ValueError) as error:
            remedy = "give package.module.function, with the package installed or in the working directory"
            raise InputError(f"{option} {name}: cannot be imported ({error}); {remedy}") from error
    if not callable(found):
        raise InputError(f"{option} {name}: is of type {type(found).__name__}, which cannot be called; name a function")
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

    try:
        made = stage(giving())
    except TypeError as error:
        problem = f"data.stages {name}: cannot be called with an iterator over samples ({error})"
        raise InputError(f"{problem}; name a function of one argument, or give class_path and init_args") from error
    if not isinstance(made, Iterable):
        problem = f"data.stages {name}: returns a {type(made).__name__}, not an iterator over samples"
        raise InputError(f"{problem}; give a function from an iterator to an iterator, e.g. webdataset.map(function)")
    for sample in made:
        taken += 1
        if taken > given:
            break
        yield sample
    if taken != given:
        problem = f"data.stages {name}: gives {taken} samples for {given}, and a stage must keep their number"
        remedy = "leave samples out with data.select, repeat them with weights of data.train_shards"
        raise InputError(f"{problem}; {remedy}")


def _staged(name: str, members: dict[str, Any]) -> Sample:
    if not isinstance(members, dict) or not isinstance(members.get("__key__"), str):
        kind = type(members).__name__
        raise InputError(f"data.stages {name}: gives a {kind} without a text as __key__; give samples as dictionaries")
    key = members["__key__"]
    held = {"__key__": key}
    for suffix in members.keys() & READ:
        try:
            held[suffix] = encode_based_on_extension1(members[suffix], suffix, default_handlers)
        except Exception as error:  # of any library that encodes this kind of member
            problem = f"{suffix} of {key} is of type {type(members[suffix]).__name__}, which cannot be encoded"
            raise InputError(f"data.stages {name}: {problem}; give bytes") from error
    return _Staged(key, place=f"{members.get('__url__', '')} {key}", held=held)
