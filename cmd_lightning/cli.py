"""The command line: finds the verb, runs it, and reports a user's mistake on one line."""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.resources import files

from cmd_lightning import __version__
from cmd_lightning.commands.loading import loading
from cmd_lightning.commands.parser import parser_of
from cmd_lightning.errors import InputError, nearest

PROGRAM = "cmd-lightning"
HINT = f"see `{PROGRAM} --help`"

TRAINING = {
    "fit": "train a stage",
    "validate": "compute the validation losses of a stage",
    "test": "evaluate on the test data",
    "predict": "generate videos for the test data",
}
"""LightningCLI's verbs."""

VERBS = {
    "train": "train a model on a folder of clips and write a report; resumable",
    "app": "serve a page in the browser to play with a model",
    "demo": "run the included model and write a report",
    "shards synth": "write shards of captioned moving shapes",
    "shards pack": "write shards of your own clips",
    "shards check": "decode all clips of shards, count bad ones, write the index",
    "shards encode": "encode shards once, so that training reads no video",
    "generate": "generate videos from prompts, classes or images",
    "reconstruct": "write content frames and reconstructions of clips, and their PSNR",
    "evaluate": "FVD, KVD, CLIPSIM and other metrics of your clips",
    "export": "write a model folder from checkpoints",
    "zoo list": "list the included models, networks and baselines",
    "zoo show": "show details of one of them",
    "zoo rank": "train a motion model briefly and compare it with the others",
}
"""The other verbs; `a b` is the function `b` (or `b_`) in `commands/a.py`, `a` the function `a` there."""


ALIASES = {"class_labels": "--class", "num_frames": "--frames", "load_ip_adapter": "--ip-adapter"}
"""Options that the library calls otherwise, by its name."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command, by default the process's own; gives the exit code, 2 for what the user can fix."""
    code = execute(list(sys.argv[1:] if arguments is None else arguments))
    try:
        sys.stdout.flush()
    except OSError as error:  # a full disk, or a reader that has left
        if not code and not isinstance(error, BrokenPipeError):
            print(f"{PROGRAM}: standard output: {error.strerror or error}", file=sys.stderr)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python will flush again when it ends
        return code or (1 if isinstance(error, BrokenPipeError) else 2)
    return code


def execute(arguments: list[str]) -> int:
    """Runs one command; gives the exit code."""
    try:
        dispatch(import_asked(arguments))
        return 0
    except InputError as error:
        print(f"{PROGRAM}: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # whoever reads the output has left, as `| head` does: no fault to report
        return 1
    except OSError as error:  # a folder that cannot be written, a full disk: the machine's word, with the file
        where = f"{error.filename}: " if error.filename else ""
        print(f"{PROGRAM}: {where}{error.strerror or error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{PROGRAM}: interrupted", file=sys.stderr)
        return 130
    except SystemExit as error:  # --help and --print_config leave this way
        if isinstance(error.code, str):
            print(f"{PROGRAM}: {error.code}", file=sys.stderr)
        return error.code if isinstance(error.code, int) else int(error.code is not None)


def dispatch(arguments: list[str]) -> None:
    """Runs the verb that `arguments` begins with."""
    group = arguments[0] if arguments else "--help"
    members = [verb for verb in VERBS if verb.split()[0] == group]
    if group in ("-h", "--help"):
        print(overview())
    elif group == "--version":
        print(f"{PROGRAM} {__version__}")
    elif group in TRAINING:
        train(group, arguments)
    elif group in VERBS:
        call(group, arguments[1:])
    elif not members:
        raise InputError(f"{group}: there is no such command; {nearest(group, [*TRAINING, *VERBS], HINT)}")
    elif len(arguments) == 1 or arguments[1] in ("-h", "--help"):
        print("\n".join(f"  {PROGRAM} {member:14} {VERBS[member]}" for member in members))
    elif (verb := " ".join(arguments[:2])) in VERBS:
        call(verb, arguments[2:])
    else:
        raise InputError(f"{verb}: there is no such command; {nearest(verb, members, HINT)}")


def train(verb: str, arguments: list[str]) -> None:
    """Runs LightningCLI, or prints a short help at once, where importing the Trainer takes seconds."""
    if "-h" in arguments or "--help" in arguments:
        config = "autoencoder" if verb in ("fit", "validate") else "cmd"
        text = files("cmd_lightning").joinpath("templates/training_help.txt").read_text(encoding="utf-8")
        print(text.format(program=PROGRAM, verb=verb, about=TRAINING[verb].capitalize(), config=config), end="")
        return
    from cmd_lightning.commands.early_checks import check

    check(verb, arguments[1:])
    with loading("libraries"):
        from cmd_lightning.commands.training import run

    with spelling({"ckpt_path": "--ckpt_path"}):
        run(["--help" if word == "--help-all" else word for word in arguments])


def call(verb: str, arguments: list[str]) -> None:
    """Calls the function of a verb with what the command line says."""
    function = function_of(verb)
    parser = parser_of(function, f"{PROGRAM} {verb}")
    values = parser.parse_all(arguments)
    with spelling(ALIASES | parser.spellings):
        code = function(**values)
    if code:  # of a command that found what it looks for
        raise SystemExit(code)


def function_of(verb: str) -> Callable[..., None]:
    """The function of a verb."""
    group, name = verb.split()[0], verb.split()[-1]
    module = importlib.import_module(f"cmd_lightning.commands.{group}")
    return getattr(module, name, None) or getattr(module, f"{name}_")  # `list_`, which would hide the builtin


@contextmanager
def spelling(options: Mapping[str, str]) -> Iterator[None]:
    """Gives Python names in an `InputError` the spelling of the command line.

    These are argument names in backquotes and, before the first colon, those that a space and a value follow, at the
    start or after a comma or an "and": `num_frames 0: ...` becomes `--num-frames 0: ...`. A bare `name: ...` is kept,
    since it may be a path.
    """
    try:
        yield
    except InputError as error:
        head, colon, rest = str(error).partition(":")
        head = re.sub(r"(^|, | and )(\w+)(?= \S)", lambda found: found[1] + options.get(found[2], found[2]), head)
        text = re.sub(r"`(\w+)`", lambda found: options.get(found[1], found[0]), head + colon + rest)
        raise InputError(re.sub(r"`import ([\w.]+)`", r"--import \1", text)) from error


def import_asked(arguments: list[str]) -> list[str]:
    """Imports the modules that `--import MODULE` names, for classes of third parties; gives back the rest."""
    rest = []
    words = iter(arguments)
    for word in words:
        if word != "--import":
            rest.append(word)
            continue
        name = next(words, "")
        sys.path.insert(0, os.getcwd())
        try:
            module = importlib.import_module(name)
        except (ImportError, ValueError) as error:
            raise InputError(f"--import {name}: {error}; give the dotted name of an importable module") from error
        from cmd_lightning.zoo.discovery import OTHERS

        OTHERS.append(module)
    return rest


def imports() -> list[str]:
    """The modules that `--import` named, for the commands that this one suggests."""
    from cmd_lightning.zoo.discovery import OTHERS

    return list(dict.fromkeys(module.__name__ for module in OTHERS))


def overview() -> str:
    """What `--help` prints."""
    verbs = "\n".join(f"  {verb:14} {about}" for verb, about in {**TRAINING, **VERBS}.items())
    return (
        f"usage: {PROGRAM} COMMAND ...\n\nContent-motion latent diffusion for video.\n\ncommands:\n{verbs}\n\n"
        f"`{PROGRAM} COMMAND --help` lists a command's options; `fit -c configs/...yaml` trains from a config.\n"
        "--import MODULE, before or after a command, makes your own classes known."
    )
