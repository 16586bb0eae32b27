"""The whole command line as one argparse parser, from which shtab writes completion for bash, zsh and tcsh."""

from __future__ import annotations

import argparse
from typing import Any

from cmd_lightning.cli import PROGRAM, TRAINING, VERBS, function_of
from cmd_lightning.commands.parser import complete_paths, parser_of


def parser() -> argparse.ArgumentParser:
    """The parser of all commands; for training commands, whose options depend on the config, only the main ones."""
    whole = argparse.ArgumentParser(PROGRAM, description="Content-motion latent video diffusion.")
    commands = whole.add_subparsers()
    groups: dict[str, Any] = {"": commands}
    for verb, about in TRAINING.items():
        training = commands.add_parser(verb, help=about)
        for flags in (["-c", "--config"], ["--ckpt_path"], ["--trainer.default_root_dir"]):
            complete_paths(training.add_argument(*flags))
        training.add_argument("--print_config", action="store_true")
    for verb, about in VERBS.items():
        group, _, name = verb.rpartition(" ")
        if group not in groups:
            groups[group] = commands.add_parser(group, help=f"the {group} commands").add_subparsers()
        own = parser_of(function_of(verb), f"{PROGRAM} {verb}")
        groups[group].add_parser(name, help=about, parents=[own], add_help=False)
    return whole
