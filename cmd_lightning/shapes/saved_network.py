"""SavedNetwork: how the weights of the yardstick's networks are kept."""

import json
from pathlib import Path
from typing import Any, ClassVar, Self

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from cmd_lightning.errors import InputError
from cmd_lightning.provenance import sha256
from cmd_lightning.zoo import WEIGHTS


class SavedNetwork(nn.Module):
    """A network kept as one safetensors file: weights in half precision, settings and record as JSON metadata.

    Subclasses name their file of the zoo in `WEIGHTS`, and take `settings` as keyword arguments.

    Attributes:
        settings: the arguments it was built with.
        record: how the loaded weights were trained and what they reached; empty without.
        origin: the file they are from and its sha256, for records of results; empty without.
    """

    WEIGHTS: ClassVar[str]
    settings: dict[str, Any]
    record: dict[str, Any]
    origin: dict[str, Any]

    @classmethod
    def from_pretrained(cls, path: str | Path | None = None) -> Self:
        """Open trained weights, ready for evaluation.

        Args:
            path: of the safetensors file; the shipped weights if None.

        Raises:
            InputError: the file is missing, or holds something else.
        """
        path = Path(WEIGHTS / cls.WEIGHTS if path is None else path)
        train = f"`python -m benchmarks.shapes.yardstick.train_{cls.WEIGHTS.removeprefix('shapes_').split('.')[0]}`"
        if not path.is_file():
            raise InputError(f"{path}: no weights of {cls.__name__} there; check the path, or train them with {train}")
        try:
            with safe_open(path, "pt") as file:
                metadata = file.metadata() or {}
                if metadata.get("network") != cls.__name__:
                    raise InputError(f"{path}: holds no weights of {cls.__name__}; give a file written by {train}")
                network = cls(**json.loads(metadata["settings"]))
                network.load_state_dict({name: file.get_tensor(name).float() for name in file.keys()})  # noqa: SIM118
                network.record = json.loads(metadata["record"])
                network.origin = {"weights": path.name, "sha256": sha256(path)}
        except InputError:
            raise
        except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
            reason = str(error).splitlines()[0]
            raise InputError(f"{path}: not weights of {cls.__name__} ({reason}); give a file of {train}") from error
        return network.eval().requires_grad_(False)

    def save_pretrained(self, path: str | Path, record: dict[str, Any]) -> None:
        """Write weights, settings, and `record` (plain data on how they were trained) to a safetensors file."""
        weights = {name: tensor.half().contiguous() for name, tensor in self.state_dict().items()}
        about = {"network": type(self).__name__, "settings": json.dumps(self.settings), "record": json.dumps(record)}
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        save_file(weights, path, about)
