"""Errors of jsonargparse in a config or an option, rewritten as one line with the nearest valid name."""

from __future__ import annotations

import inspect
import re
import traceback
from collections.abc import Iterable

from cmd_lightning import compat
from cmd_lightning.errors import nearest

REMEDIES = {
    "base": "the folder of a Stable Diffusion in diffusers' layout, or its hub id (see docs/stable-diffusion.md)",
    "vae": "the folder of a Stable Diffusion or of an image autoencoder, or its hub id (see docs/stable-diffusion.md)",
}
"""What to give for a required option that configs leave out."""
FORMS = {
    "train_shards": "a path, a list of paths, or data sets with weights as a mapping, "
    "{webvid/train: 0.7, openvid/train: 0.3}",
    "stages": "a list, [my_package.my_stage, {class_path: my_package.Stage, init_args: {size: 100}}]",
    "select": "conditions, {width: {min: 512}}, or the name of a function",
}
"""The values of an option, if the names of its types do not explain them."""
LONGEST = 300


def explain(message: str, classes: Iterable[type]) -> str:
    """The innermost of jsonargparse's nested messages, on one line."""
    line = " ".join(message.split())
    by_name = {cls.__name__: cls for cls in classes}
    if option := first_match(compat.UNKNOWN_OPTION, line):
        path, dot, name = option.rpartition(".")
        known = {parameter for cls in by_name.values() for parameter in parameters(cls)}
        return f"{option}: there is no such option; {nearest(name, known, '', path + dot)}".removesuffix("; ")
    if missing := re.search(compat.MISSING_ARGUMENT, line):
        owner, name = missing.groups()
        path = ".".join([*re.findall(compat.NESTED_KEY, line[: missing.start()]), name])
        place = path.rpartition(".")[0] or "model"
        what = REMEDIES.get(name, f"a value; see --{place}.help {owner.rpartition('.')[2]}")
        return f"{path}: {owner.rpartition('.')[2]} needs it, and none is given; add --{path} with {what}"
    if wrong := re.search(compat.WRONG_VALUE, line):
        key, expected, value = wrong.groups()
        return (
            f"{place_of(line[: wrong.start()], key)} {value}: expected {re.sub(r'typing[.]|<class |>', '', expected)}"
        )
    if unknown := first_match(compat.UNKNOWN_CLASS, line):
        name = unknown.rpartition(".")[2]
        if name not in by_name:
            own = "for your own class, add --import my_package.module"
            return f"class_path {unknown}: there is no such class; {nearest(name, by_name, own)}"
        place = place_of(line.partition(unknown)[0])
        return f"{place} {unknown}: {kind_of(by_name[name])} does not fit there; give another class"
    if wrong := re.search(compat.WRONG_CHOICE, line):
        types, value = wrong.groups()
        literals = " ".join(re.findall(r"Literal\[([^]]*)\]", types))
        choices: list[str] = sorted(set(re.findall(r"[\w-]+", literals)))
        names = re.findall(r"(?:<class '|^|, )([\w.]+)", types)
        choices = choices or [name.rpartition(".")[2] for name in names if name not in ("NoneType", "typing.Literal")]
        place = place_of(line[: wrong.start()])
        form = FORMS.get(place.rpartition(".")[2], f"one of {', '.join(choices)}")
        return f"{place} {value}: expected {form}"
    return line if len(line) <= LONGEST else line[:LONGEST] + " ..."


def raised_in(error: BaseException, package: str) -> bool:
    """Whether a function of the package itself raised an error, not one that it called."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return bool(frames) and frames[-1].f_globals.get("__name__", "").partition(".")[0] == package


def place_of(text: str, *more: str) -> str:
    """The option that the nested messages of `text` are about."""
    return ".".join([*re.findall(compat.NESTED_KEY, text), *more])


def kind_of(cls: type) -> str:
    """The kind of a class in words: the contract that it implements, or its name."""
    contracts = [base.__name__ for base in cls.__mro__[1:] if base.__module__.endswith(".contracts")]
    kind = contracts[0] if contracts else cls.__name__
    return f"{'an' if kind[0] in 'AEIOU' else 'a'} {kind}"


def first_match(patterns: Iterable[str], line: str) -> str | None:
    """The first group of the first pattern that matches."""
    return next((found[1] for pattern in patterns if (found := re.search(pattern, line))), None)


def parameters(cls: type) -> set[str]:
    """The names of the constructor's arguments, inherited ones included."""
    found: set[str] = set()
    for base in cls.__mro__:
        if "__init__" in vars(base):
            found |= set(inspect.signature(vars(base)["__init__"]).parameters)
    return found - {"self", "args", "kwargs"}
