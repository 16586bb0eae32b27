"""What is in the zoo: every class of its folders that fulfils a contract, by type; nothing to register."""

from __future__ import annotations

import importlib
import json
import pkgutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml

from cmd_lightning.atomic_files import replaced
from cmd_lightning.errors import InputError, reason
from cmd_lightning.provenance import sha256
from cmd_lightning.zoo.card import Card, Kind

ROOM = Path(__file__).parent
CARDS = ROOM / "cards"
FOLDERS: Mapping[Kind, str] = {
    "motion": "motion",
    "content": "content",
    "autoencoder": "autoencoders",
    "baseline": "baselines",
}
"""The folder of each kind of network."""
OTHERS: list[ModuleType] = []
"""Modules of third parties, which `--import` names; their networks are listed like those of the zoo."""


@dataclass(frozen=True)
class Entry:
    """A network of the zoo, or a model that ships.

    Attributes:
        name: Name of the class, function or folder; unique within the zoo.
        kind: Kind of network, or "model".
        module: Dotted name of its module; "" for a model.
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
        """Where its card is, if it has one."""
        return CARDS / f"{self.name}.yaml"

    @cached_property
    def card(self) -> Card:
        """What its card says; without one, what its docstring and `configs/motion` say."""
        if self.card_path.is_file():
            return Card.read(self.card_path, self.name, self.kind)
        return Card(self.name, self.kind, self.about, config=motion_configs().get(self.name, ""))


def modules(kind: Kind) -> Iterator[ModuleType]:
    """Imports the modules in the folder of a kind of network."""
    package = importlib.import_module(f"cmd_lightning.zoo.{FOLDERS[kind]}")
    for found in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
        try:
            yield importlib.import_module(found.name)
        except Exception as error:  # importing runs anyone's code
            raise InputError(f"{found.name}: cannot be imported ({reason(error)}); fix it") from error


def networks(kind: Kind) -> list[Entry]:
    """The networks of a kind, by name: those of the zoo, then those of `OTHERS`."""
    return own_networks(kind) + found_in(OTHERS, kind) if OTHERS else own_networks(kind)


def own_networks(kind: Kind) -> list[Entry]:
    """The networks of a kind in the zoo's folder.

    Classes are found by importing the modules. That takes 5 s, and `zoo list` must answer within 3 s. So the names are
    kept in a file in `__pycache__`, and are read from it until a source file of the zoo or of `networks` changes.
    """
    index = ROOM / FOLDERS[kind] / "__pycache__" / "entries.json"
    roots = (ROOM, ROOM.parent / "networks")  # the latter for the contracts
    sources = {
        str(path.relative_to(ROOM.parent)): sha256(path) for root in roots for path in sorted(root.rglob("*.py"))
    }
    with suppress(OSError, ValueError, KeyError, TypeError):
        known = json.loads(index.read_text(encoding="utf-8"))
        if known["sources"] == sources:
            return [Entry(**row) for row in known["entries"]]
    found = imported(kind)
    with suppress(OSError):
        index.parent.mkdir(exist_ok=True)
        with replaced(index) as draft:
            draft.write_text(json.dumps({"sources": sources, "entries": [asdict(entry) for entry in found]}))
    return found


def imported(kind: Kind) -> list[Entry]:
    """The networks of a kind in the zoo's folder, found by importing its modules."""
    return found_in(modules(kind), kind)


def found_in(places: Iterable[ModuleType], kind: Kind) -> list[Entry]:
    """The networks of a kind in some modules: classes that fulfil its contract, and factories of a stock U-Net.

    Names that begin with an underscore stay private. A class counts where it is defined, or in a package that it is of.
    """
    from diffusers import UNet2DConditionModel

    from cmd_lightning.networks import AutoencoderNetwork, ContentModel, MotionModel, VideoDenoiser

    contracts: Mapping[Kind, tuple[type, ...]] = {
        "motion": (MotionModel,),
        "content": (ContentModel, UNet2DConditionModel),
        "autoencoder": (AutoencoderNetwork,),
        "baseline": (VideoDenoiser,),
    }
    found = {}
    for place in places:
        for value in vars(place).values():
            if isinstance(value, type) and issubclass(value, contracts[kind]) and is_of(value.__module__, place):
                name = getattr(value, "wrapped_function", value).__name__  # of jsonargparse's class of a factory
                about = (value.__doc__ or "").partition("\n\n")[0]
                found[name] = Entry(name, kind, value.__module__, " ".join(about.split()))
    return [found[name] for name in sorted(found, key=str.lower) if not name.startswith("_")]


def is_of(module: str, place: ModuleType) -> bool:
    """Whether a module is this one or, where this is a package, within it."""
    return module == place.__name__ or (hasattr(place, "__path__") and module.startswith(f"{place.__name__}."))


def motion_configs() -> Mapping[str, str]:
    """The config in `configs/motion` of each motion model, by the class that it names: paths from the checkout."""
    paths = sorted((ROOM.parent / "configs/motion").glob("*.yaml"))
    return {network_of(path)[0].rpartition(".")[2]: f"configs/motion/{path.name}" for path in paths}


def network_of(path: Path, argument: str = "") -> tuple[str, dict[str, Any]]:
    """Class path and arguments of the network in a config of a stage; "" where it only changes another's arguments.

    Errors begin with `argument` and the path.
    """
    if not path.is_file():
        raise InputError(f"{argument}{path}: there is no such file; give a config as in configs/motion")
    try:
        network = yaml.safe_load(path.read_text(encoding="utf-8"))["model"]["init_args"]["network"]
        if isinstance(network, str):
            return network, {}
        if not {"class_path", "init_args"} & {*network}:
            raise KeyError("class_path")
        return str(network.get("class_path") or ""), dict(network.get("init_args") or {})
    except yaml.YAMLError as error:
        raise InputError(f"{argument}{path}: it is no YAML ({reason(error)}); fix it") from error
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise InputError(
            f"{argument}{path}: it has no model.init_args.network with class_path and init_args; see configs/motion"
        ) from error
