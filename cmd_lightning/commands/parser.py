"""A command-line parser from a function's signature and docstring: one source for options, types, units, defaults."""

from __future__ import annotations

import argparse
import inspect
import re
import types
import typing
from collections.abc import Callable, Sequence
from typing import Any, Literal, NoReturn

import docstring_parser

from cmd_lightning.errors import InputError, nearest

STAGES = ("content", "motion")
"""Stages for which sampling options may differ."""


class Parser(argparse.ArgumentParser):
    """An argparse parser whose errors are `InputError`s that name the nearest option."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.spellings: dict[str, str] = {}  # of the verb's parameters on the command line, by name in Python

    def error(self, message: str) -> NoReturn:
        if missing := re.fullmatch("the following arguments are required: (.*)", message):
            raise InputError(f"{missing[1]}: missing; see `{self.prog} --help`")
        if wrong := re.fullmatch(r"argument (\S+): invalid (int|float) value: '(.*)'", message):
            wanted = {"int": "a whole number", "float": "a number"}[wrong[2]]
            raise InputError(f"{wrong[1]} {wrong[3]}: give {wanted}")
        raise InputError(message.removeprefix("argument "))

    def parse_all(self, arguments: Sequence[str]) -> dict[str, Any]:
        """The options by name; an unknown option is an error that names the nearest one."""
        values, unknown = self.parse_known_args(list(arguments))
        if unknown:
            given = unknown[0].partition("=")[0]
            options = [name for name in self.spellings.values() if name.startswith("-")]
            hint = nearest(given, [*options, "--help"], f"see `{self.prog} --help`")
            raise InputError(f"{unknown[0]}: there is no such option; {hint}")
        return vars(values)


def parser_of(function: Callable[..., Any], prog: str) -> Parser:
    """The parser of a verb.

    Keyword-only parameters are options of the same name with dashes, required without a default; the others are
    positional, and may be left out if they have a default. A list takes several values. Types: str, int, float, bool (a
    flag), Literal, list of these, and a dict of one of these for what may differ by stage: `50` or
    `content=50,motion=100`.
    """
    summary, about = docstring_of(function)
    parser = Parser(prog=prog, description=summary, allow_abbrev=False)
    hints = typing.get_type_hints(function)
    for name, parameter in inspect.signature(function).parameters.items():
        required = parameter.default is inspect.Parameter.empty
        positional = parameter.kind is not inspect.Parameter.KEYWORD_ONLY
        flags = [name] if positional else ["--" + name.rstrip("_").replace("_", "-")]
        settings: dict[str, Any] = {"help": about.get(name, "").replace("%", "%%")}
        if positional and not required:
            settings |= {"nargs": "?", "default": parameter.default}
        if not positional:
            settings |= {"default": None if required else parameter.default, "dest": name, "required": required}
            if not required and parameter.default not in (None, False):
                settings["help"] += f" (default: {parameter.default})"
        parser.spellings[name] = name.upper() if positional else flags[0]
        action = parser.add_argument(*flags, **settings, **settings_of(hints[name], name))
        if action.type is str and not action.choices:
            complete_paths(action)
    return parser


def complete_paths(action: argparse.Action) -> None:
    """Let shtab complete the value of an option as a path."""
    paths = {"bash": "_shtab_compgen_files", "zsh": "_files", "tcsh": "f"}
    action.complete = paths  # type: ignore[attr-defined]  # read by shtab


def settings_of(hint: Any, name: str) -> dict[str, Any]:
    """Argparse's settings for a type."""
    options = [option for option in typing.get_args(hint) if option is not types.NoneType]
    if typing.get_origin(hint) in (types.UnionType, typing.Union) and len(options) == 1:
        return settings_of(options[0], name)
    metavar = name.rstrip("_").upper()
    if hint is bool:
        return {"action": "store_true"}
    if typing.get_origin(hint) is Literal:
        return {"choices": options}
    if typing.get_origin(hint) is list:
        return {"nargs": "+", "type": options[0], "metavar": metavar}
    if typing.get_origin(hint) is dict:
        return {"type": by_stage(options[1]), "metavar": f"{metavar} or content={metavar},motion={metavar}"}
    return {"type": hint, "metavar": metavar}


def by_stage(kind: Any) -> Callable[[str], dict[str, Any]]:
    """Reads `50` or `content=50,motion=100`; values of a type, or out of a `Literal`."""
    choices = typing.get_args(kind)

    def value_of(text: str) -> Any:
        if choices and text not in choices:
            raise argparse.ArgumentTypeError(f"{text!r} is not one of {', '.join(choices)}")
        return text if choices else kind(text)

    def read(text: str) -> dict[str, Any]:
        if "=" not in text:
            return dict.fromkeys(STAGES, value_of(text))
        values = {stage.strip(): value_of(value) for stage, value in (item.split("=") for item in text.split(","))}
        if unknown := [stage for stage in values if stage not in STAGES]:
            raise argparse.ArgumentTypeError(f"no stage {unknown[0]!r}; the stages are {', '.join(STAGES)}")
        return values

    read.__name__ = "str" if choices else kind.__name__  # argparse names it in errors
    return read


def docstring_of(function: Callable[..., Any]) -> tuple[str, dict[str, str]]:
    """The summary and the `Args:` of a Google docstring."""
    text = docstring_parser.parse(function.__doc__ or "", docstring_parser.DocstringStyle.GOOGLE)
    return text.description or "", {entry.arg_name: " ".join(str(entry.description).split()) for entry in text.params}
