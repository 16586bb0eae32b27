"""The card of a zoo entry: what it is, in a small file that is read and checked the same way everywhere."""

from __future__ import annotations

import re
import typing
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import NoneType
from typing import Any, Literal

import yaml

from cmd_lightning.errors import InputError, nearest, reason

Kind = Literal["model", "motion", "content", "autoencoder", "baseline"]


@dataclass(frozen=True)
class Card:
    """What `zoo/cards/NAME.yaml` says of an entry.

    Attributes:
        name: Name of the entry and of the file.
        kind: Kind of the entry.
        what: One sentence.
        source: The paper or repository of the idea.
        weights: The hub id of a network's public weights, if any; the sha256 of each file of a model that ships.
        licence: Licence of the public weights.
        config: The config that trains it, as a path from the checkout.
        parameters: Parameters of a motion model as `config` has it; of other networks with their defaults, for the
            `video` and `condition_dim` of the card; of a model that ships, by part.
        video: Shape `(C, T, H, W)` of the videos, in the latent space that the network is made for; frames per second.
        condition_dim: Channels of the condition that `parameters` are counted with.
        autoencoder: The zoo's autoencoder whose latents `parameters` are counted for.
        naturalness: How natural the content frames of a trained autoencoder are, by how it weighs frames: each measure
            of `ContentNaturalness` over that of real frames, so that 1 is as natural as these.
        ranking: Results of `zoo rank` for a motion model.
        trained_on: Data, hardware and versions of a model.
        training: Config, length and validation curve of each stage of a model.
        progress: Scores of a model during training.
        results: The file of a model's scores.
        seen: What samples of a model look like.
        uses: What becomes of clips that a model is given: transferred, continued, edited.
    """

    name: str
    kind: Kind
    what: str
    source: str = ""
    weights: str | dict[str, str] = ""
    licence: str = ""
    config: str = ""
    parameters: int | dict[str, int] | None = None
    video: dict[str, Any] = field(default_factory=dict)
    condition_dim: int = 0
    autoencoder: str = ""
    naturalness: dict[str, Any] = field(default_factory=dict)
    ranking: dict[str, Any] = field(default_factory=dict)
    trained_on: str = ""
    training: dict[str, Any] = field(default_factory=dict)
    progress: list[Any] = field(default_factory=list)
    results: str = ""
    seen: list[str] = field(default_factory=list)
    uses: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, path: Path, name: str, kind: Kind) -> Card:
        """The card in a file, which must be of the entry with that name and kind."""
        try:
            record = yaml.safe_load(path.read_text(encoding="utf-8"))
        except yaml.YAMLError as error:
            raise InputError(f"{path}: it is no YAML ({reason(error)}); fix it") from error
        if not isinstance(record, dict):
            raise InputError(f"{path}: a card has fields, as `name: {name}`; this has none")
        hints = typing.get_type_hints(cls)
        for key, value in record.items():
            if key not in hints:
                raise InputError(f"{path}: {key}: a card has no such field; {nearest(str(key), hints)}")
            if not is_a(value, hints[key]):
                raise InputError(f"{path}: {key} {value!r:.80}: give {told(hints[key])}")
        missing = [item.name for item in fields(cls)[:3] if item.name not in record]
        if missing:
            raise InputError(f"{path}: {', '.join(missing)}: a card needs it; add it")
        for key, right in (("name", name), ("kind", kind)):
            if record[key] != right:
                raise InputError(f"{path}: {key} {record[key]}: the zoo has a {kind} {name} there; give {right}")
        return cls(**record)

    @property
    def total(self) -> int | None:
        """The number of parameters of all parts; None if the card has none."""
        return sum(self.parameters.values()) if isinstance(self.parameters, dict) else self.parameters


def with_field(text: str, name: str, value: Any) -> str:
    """The text of a card with a field replaced; everything else stays, comments included.

    A new field is added at the end, but before the `ranking`, which is long.
    """
    style = None if isinstance(value, dict) else False  # leaves of a mapping on a line each
    line = yaml.safe_dump({name: value}, default_flow_style=style, sort_keys=False, allow_unicode=True, width=120)
    flags = re.MULTILINE | re.DOTALL
    text = text.rstrip("\n") + "\n"
    place = re.search(rf"^{name}:.*?(?=^[^\s-]|\Z)", text, flags) or re.search(r"(?=^ranking:)|\Z", text, flags)
    assert place  # the end of the text at least
    return text[: place.start()] + line + text[place.end() :]


def is_a(value: object, hint: Any) -> bool:
    """Whether a value of a YAML file is of the type of a field, down to the items of a list or mapping."""
    kind, inner = typing.get_origin(hint), typing.get_args(hint)
    if kind is Literal:
        return value in inner
    if kind is dict:
        return isinstance(value, dict) and all(is_a(k, inner[0]) and is_a(v, inner[1]) for k, v in value.items())
    if kind is list:
        return isinstance(value, list) and all(is_a(item, inner[0]) for item in value)
    if inner:
        return any(is_a(value, option) for option in inner)
    return hint is Any or (isinstance(value, hint) and not isinstance(value, bool))


def told(hint: Any) -> str:
    """A type in words, for an error."""
    kind, inner = typing.get_origin(hint), typing.get_args(hint)
    if kind is Literal:
        return " or ".join(inner)
    if kind in (dict, list) or not inner:
        names = {dict: "a mapping", list: "a list", str: "a text", int: "a whole number"}
        return names[kind or hint]
    return " or ".join(told(option) for option in inner if option is not NoneType)
