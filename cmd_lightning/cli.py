"""The command line: finds the verb, runs it, and reports a user's mistake on one line."""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from cmd_lightning import __version__
from cmd_lightning.commands.parser import parser_of
from cmd_lightning.errors import InputError, nearest

PROGRAM = "cmd-lightning"
HINT = f"see `{PROGRAM} --help`"

TRAINING = {
    "fit": "train a stage",
    "validate": "validation losses of a stage",
    "test": "evaluate on the test data",
    "predict": "generate over the test data",
}
"""LightningCLI's verbs."""

TRAINING_HELP = """\
usage: {program} {verb} -c CONFIG.yaml [--OPTION VALUE ...]

{about}. This is LightningCLI: a config holds `model`, `data`, `trainer`; every entry of it is an option too.

  -c FILE                             config, of configs/ or your own; several are merged, later ones win
  --model CLASS                       the component: VideoAutoencoder, ContentDiffusion, StableDiffusionContent,
                                      MotionDiffusion, VideoDiffusion (a baseline), CMD
  --model.network CLASS               its network, any of the zoo or an importable class; arguments as
                                      --model.network.width 256
  --data.train_shards PATHS           paths, globs, brace ranges or URLs of .tar shards; also --data.OPTION
  --trainer.max_steps N               any argument of lightning's Trainer; also max_time DD:HH:MM:SS, devices,
                                      precision (16-mixed, bf16-mixed), default_root_dir
  --ckpt_path FILE                    resume from this checkpoint (fit), or evaluate it; `last`: the one of the config's
                                      LastCheckpoint, and where there is none yet, fit begins at step 0
  --seed_everything N                 seed of all draws (default: 0)
  --print_config                      show the whole config and stop
  --model.help CLASS, --model.network.help CLASS, --data.help CLASS
                                      arguments of a class with types and defaults
  --help-all                          every option, also the Trainer's (takes some seconds)

example: {program} {verb} -c configs/shapes32/{config}.yaml --trainer.max_time 00:00:30:00
"""
"""What `fit --help` prints: at once, where importing the Trainer takes seconds."""

VERBS = {
    "demo": "what the shipped model can do, or --fit: train from scratch; with a report page",
    "shards synth": "write shards of captioned moving shapes",
    "shards pack": "write shards of your own clips",
    "shards check": "count what is in shards, decode all of it, write the index",
    "shards encode": "encode shards once, so that training reads no video",
    "generate": "videos from prompts, classes or images",
    "reconstruct": "content frame, reconstruction and PSNR of clips",
    "evaluate": "FVD, KVD, CLIPSIM and more of your clips against real ones",
    "export": "checkpoints to a model folder",
    "zoo list": "shipped models, networks that plug in, baselines",
    "zoo show": "details of one of them",
    "zoo rank": "train a motion model briefly on the shipped autoencoder's latents, and rank it",
}
"""The other verbs; `a b` is the function `b` (or `b_`) in `commands/a.py`, `a` the function `a` there."""


ALIASES = {"class_labels": "--class", "num_frames": "--frames"}
"""Options that the library calls otherwise, by its name."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        arguments: The command line after the program's name; by default the process's own.

    Returns:
        The exit code: 0, or 2 for what the user can fix (one line on standard error says how).
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        arguments = import_asked(arguments)
        return dispatch(arguments)
    except InputError as error:
        print(f"{PROGRAM}: {error}", file=sys.stderr)
        return 2
    except OSError as error:  # a folder that cannot be written, a full disk: the machine's word, with the file
        where = f" {error.filename}" if error.filename else ""
        print(f"{PROGRAM}:{where}: {error.strerror or error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{PROGRAM}: interrupted", file=sys.stderr)
        return 130
    except SystemExit as error:  # --help and --print_config leave this way
        if isinstance(error.code, str):
            print(f"{PROGRAM}: {error.code}", file=sys.stderr)
        return error.code if isinstance(error.code, int) else int(error.code is not None)


def dispatch(arguments: list[str]) -> int:
    """Runs the verb that `arguments` begins with."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(overview())
        return 0
    if arguments[0] == "--version":
        print(f"{PROGRAM} {__version__}")
        return 0
    if arguments[0] in TRAINING:
        verb = arguments[0]
        if "-h" in arguments or "--help" in arguments:
            config = "autoencoder" if verb in ("fit", "validate") else "cmd"
            about = TRAINING[verb].capitalize()
            print(TRAINING_HELP.format(program=PROGRAM, verb=verb, about=about, config=config), end="")
            return 0
        from cmd_lightning.commands.training import run

        with spelling({"ckpt_path": "--ckpt_path"}):
            run(["--help" if word == "--help-all" else word for word in arguments])
        return 0
    group = arguments[0]
    members = [verb for verb in VERBS if verb.split()[0] == group]
    if not members:
        raise InputError(f"{group}: there is no such command; {nearest(group, [*TRAINING, *VERBS], HINT)}")
    if group in VERBS:
        verb, rest = group, arguments[1:]
    else:
        verb, rest = " ".join(arguments[:2]), arguments[2:]
        if len(arguments) == 1 or arguments[1] in ("-h", "--help"):
            print("\n".join(f"  {PROGRAM} {member:14} {VERBS[member]}" for member in members))
            return 0
        if verb not in VERBS:
            raise InputError(f"{verb}: there is no such command; {nearest(verb, members, HINT)}")
    module = importlib.import_module(f"cmd_lightning.commands.{group}")
    name = verb.split()[-1]
    function = getattr(module, name, None) or getattr(module, f"{name}_")  # `list_`, which would hide the builtin
    parser = parser_of(function, f"{PROGRAM} {verb}")
    values = parser.parse_all(rest)
    with spelling(ALIASES | parser.spellings):
        function(**values)
    return 0


@contextmanager
def spelling(options: Mapping[str, str]) -> Iterator[None]:
    """Gives Python names in an `InputError` the spelling of the command line.

    These are argument names in backquotes, and before the first colon those at its start, after a comma or an "and":
    `num_frames 0: ...` becomes `--num-frames 0: ...`.

    Args:
        options: The spellings by Python name.
    """
    try:
        yield
    except InputError as error:
        head, colon, rest = str(error).partition(":")
        head = re.sub(r"(^|, | and )(\w+)(?=[ ,]|$)", lambda found: found[1] + options.get(found[2], found[2]), head)
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
            importlib.import_module(name)
        except (ImportError, ValueError) as error:
            raise InputError(f"--import {name}: {error}; give the dotted name of an importable module") from error
    return rest


def overview() -> str:
    """What `--help` prints."""
    lines = [f"usage: {PROGRAM} COMMAND ...", "", "Content-motion latent diffusion for video.", "", "commands:"]
    lines += [f"  {verb:14} {about}" for verb, about in {**TRAINING, **VERBS}.items()]
    lines += [
        "",
        f"`{PROGRAM} COMMAND --help` lists a command's options; `fit -c configs/...yaml` trains from a config.",
    ]
    lines += ["--import MODULE, before or after a command, makes your own classes known."]
    return "\n".join(lines)
