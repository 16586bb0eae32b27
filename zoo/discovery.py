"""What is in the zoo, found by reading its files: no list to keep, and no library that takes seconds to import."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from cmd_lightning.errors import InputError, reason
from cmd_lightning.zoo.card import Card, Kind

ROOM = Path(__file__).parent
CARDS = ROOM / "cards"
NETWORKS: Mapping[Kind, tuple[str, str]] = {
    "motion": ("motion", "MotionModel"),
    "content": ("content", "ContentModel"),
    "autoencoder": ("autoencoders", "AutoencoderNetwork"),
    "baseline": ("baselines", "VideoDenoiser"),
}
"""Of each kind of network the folder, and the contract that those in it fulfil."""
FACTORY = "class_from_function"
"""jsonargparse's decorator of a function that makes someone else's network, which is an entry too."""


@dataclass(frozen=True)
class Entry:
    """A network of the zoo, or a model that ships.

    Attributes:
        name: Of the class, function or folder; unique within the zoo.
        kind: Of what it plugs into, or "model".
        module: Dotted name of the module that has it; "" for a model.
        about: First sentence of its docstring; "" for a model.
    """

    name: str
    kind: Kind
    module: str = ""
    about: str = ""

    def load(self) -> Any:
        """The class or function that makes the network."""
        return getattr(importlib.import_module(self.module), self.name)

    @property
    def card_path(self) -> Path:
        """Where its card lies, if it has one."""
        return CARDS / f"{self.name}.yaml"

    @cached_property
    def card(self) -> Card:
        """What its card says; without one, what its docstring and `configs/motion` say.

        Raises:
            InputError: The card is wrong.
        """
        if self.card_path.is_file():
            return Card.read(self.card_path, self.name, self.kind)
        return Card(self.name, self.kind, self.about, config=motion_configs().get(self.name, ""))


def networks() -> Iterator[Entry]:
    """Every network of the zoo's folders, as its source tells: classes that fulfil the contract, and factories.

    A class fulfils it as well by way of another class of the zoo; names that begin with an underscore stay private.

    Raises:
        InputError: A file is no Python.
    """
    for kind, (folder, contract) in NETWORKS.items():
        known = {contract}
        found = {
            (path.stem, node)
            for path in sorted((ROOM / folder).glob("*.py"))
            for node in parsed(path).body
            if isinstance(node, ast.ClassDef | ast.FunctionDef)
        }
        while more := {node.name for _, node in found if known & {*bases(node)}} - known:
            known |= more
        for stem, node in sorted(found, key=lambda pair: pair[1].name.lower()):
            if node.name in known and not node.name.startswith("_"):
                about = (ast.get_docstring(node) or "").partition("\n\n")[0]
                yield Entry(node.name, kind, f"cmd_lightning.zoo.{folder}.{stem}", " ".join(about.split()))


def parsed(path: Path) -> ast.Module:
    """The source of a file.

    Raises:
        InputError: It is no Python.
    """
    try:
        return ast.parse(path.read_text(encoding="utf-8"))
    except SyntaxError as error:
        raise InputError(f"{path}: line {error.lineno}: {error.msg}; mend it") from error


def bases(node: ast.ClassDef | ast.FunctionDef) -> Iterator[str]:
    """The names that a class is made from; of a factory, every contract's."""
    if isinstance(node, ast.FunctionDef):
        if FACTORY in map(last_name, node.decorator_list):
            yield from (contract for _, contract in NETWORKS.values())
    else:
        yield from map(last_name, node.bases)


def last_name(expression: ast.expr) -> str:
    """`c` of the expression `a.b.c`."""
    return ast.unparse(expression).rpartition(".")[2]


def motion_configs() -> Mapping[str, str]:
    """The config in `configs/motion` of each motion model, by the class that it names: paths from the checkout."""
    folder = ROOM.parent / "configs" / "motion"
    paths = sorted(folder.glob("*.yaml"))
    return {network_of(path)[0].rpartition(".")[2]: f"configs/motion/{path.name}" for path in paths}


def network_of(path: Path) -> tuple[str, dict[str, Any]]:
    """Class path and arguments of the network in a config of a stage; "" where it only changes another's arguments.

    Raises:
        InputError: There is no such file, or it names no network.
    """
    if not path.is_file():
        raise InputError(f"{path}: there is no such file; give a config as in configs/motion")
    try:
        network = yaml.safe_load(path.read_text(encoding="utf-8"))["model"]["init_args"]["network"]
        if isinstance(network, str):
            return network, {}
        if not {"class_path", "init_args"} & {*network}:
            raise KeyError("class_path")
        return str(network.get("class_path") or ""), dict(network.get("init_args") or {})
    except yaml.YAMLError as error:
        raise InputError(f"{path}: it is no YAML ({reason(error)}); mend it") from error
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise InputError(
            f"{path}: it has no model.init_args.network with class_path and init_args; see configs/motion"
        ) from error
