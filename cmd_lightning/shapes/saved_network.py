"""SavedNetwork: the yardstick's networks, a trunk with heads, and how their weights are kept."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Self

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from cmd_lightning.errors import InputError, reason
from cmd_lightning.provenance import sha256
from cmd_lightning.shapes.convnet import VideoConvNet
from cmd_lightning.zoo import WEIGHTS


@contextmanager
def saved_weights(path: Path, what: str, config: str) -> Iterator[tuple[dict[str, str], dict[str, Tensor]]]:
    """Metadata and weights, in single precision, of a safetensors file, for a block that builds a network of them.

    An error in the block too says that the file does not hold `what`, and with which yardstick `config` to train it.
    """
    try:
        with safe_open(path, "pt") as file:
            weights = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
            metadata = file.metadata() or {}
        yield metadata, weights
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        source = f"give a file trained with benchmarks/shapes/yardstick/{config}"
        raise InputError(f"path {path}: no weights of {what} ({reason(error)}); {source}") from error


class SavedNetwork(nn.Module):
    """A trunk with a head for each question, kept as one safetensors file.

    The file has weights in half precision, settings and record as JSON metadata. Subclasses name it in `WEIGHTS`, the
    possible answers to each question in `ANSWERS`, and take `settings` of the trunk as keyword arguments.

    Attributes:
        settings: The arguments it was built with.
        record: How the loaded weights were trained and what they reached; empty without.
        origin: The file they are from and its sha256, for records of results; empty without.
    """

    WEIGHTS: ClassVar[str]
    ANSWERS: ClassVar[Mapping[str, Sequence[str]]]

    def __init__(self, defaults: Mapping[str, int] | None = None, /, **settings: Any) -> None:
        super().__init__()
        self.trunk = VideoConvNet(**{"num_features": 96, **(defaults or {}), **settings})
        width = self.trunk.num_features
        self.heads = nn.ModuleDict({name: nn.Linear(width, len(choices)) for name, choices in self.ANSWERS.items()})
        self.settings = settings
        self.record: dict[str, Any] = {}
        self.origin: dict[str, Any] = {}

    @classmethod
    def from_pretrained(cls, path: str | Path | None = None) -> Self:
        """Open trained weights, ready for evaluation: the shipped ones, or those of the safetensors file `path`."""
        path = Path(WEIGHTS / cls.WEIGHTS if path is None else path)
        config = cls.WEIGHTS.removeprefix("shapes_").replace(".safetensors", ".yaml")
        with saved_weights(path, cls.__name__, config) as (metadata, weights):
            if metadata.get("network") != cls.__name__:
                raise ValueError(f"its metadata name the network {metadata.get('network')}")
            network = cls(**json.loads(metadata["settings"]))
            network.load_state_dict(weights)
            network.record = json.loads(metadata["record"])
        network.origin = {"weights": path.name, "sha256": sha256(path)}
        return network.eval().requires_grad_(False)

    def answer(self, features: Tensor) -> dict[str, Tensor]:
        """Logits of what each head answers."""
        return {name: head(features) for name, head in self.heads.items()}

    def save_pretrained(self, path: str | Path, record: dict[str, Any]) -> None:
        """Write weights, settings, and `record` (plain data on how they were trained) to a safetensors file."""
        weights = {name: tensor.half().contiguous() for name, tensor in self.state_dict().items()}
        about = {"network": type(self).__name__, "settings": json.dumps(self.settings), "record": json.dumps(record)}
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        save_file(weights, path, about)
