"""open_feature: the network that a name, a file or a module stands for."""

from __future__ import annotations

import pkgutil
from pathlib import Path

from torch import nn

from cmd_lightning.errors import InputError
from cmd_lightning.metrics.frozen import Frozen
from cmd_lightning.metrics.i3d_weights import I3D_NAMES, open_i3d
from cmd_lightning.metrics.protocol import Prepared, Protocol

WEIGHT_SUFFIXES = (".pt", ".pth", ".safetensors")

ALIASES = {"shapes": "cmd_lightning.shapes.features.ShapesFeatures.from_pretrained"}
"""Short names of importable feature networks; imported only when one of them is asked for."""


def open_feature(
    feature: nn.Module | str | Path, preset: str | Protocol | None = None, trust_torchscript: bool = False
) -> nn.Module:
    """The network from clips `(B, C, T, H, W)`, float in [0, 1], to features `(B, d)`, frozen: see `Frozen`.

    Args:
        feature: One of
            - a module, used as it is, or behind the preparation of `preset` if that is given;
            - "i3d" or "i3d-torchscript": the published I3D, see `open_i3d`;
            - a file of I3D weights (.pt, .pth, .safetensors);
            - "shapes": features of the procedural world, see `ShapesFeatures`;
            - "module.Class": anything importable that gives such a module when called without arguments;
            - an id or a folder of a VideoMAE or V-JEPA 2 checkpoint, see `TransformersFeatures`.
        preset: How clips are prepared: see `Protocol.parse`. The I3D needs one, "stylegan-v" by default; the shapes
            features and those of transformers have a preparation of their own.
        trust_torchscript: Whether to open torchscript weights of unknown origin: see `open_i3d`.

    Raises:
        InputError: Nothing of that name, or a preset where none applies.
    """
    if not isinstance(feature, nn.Module | str | Path):
        raise InputError(f"feature {feature!r:.60}: give a torch module, a name, or a file of weights")
    if not isinstance(feature, nn.Module):
        network = open_named(str(feature), preset, trust_torchscript)
    else:
        network = feature if preset is None else Prepared(feature, Protocol.parse(preset))
    return network if isinstance(network, Frozen) else Frozen(network)


def open_named(name: str, preset: str | Protocol | None, trust_torchscript: bool) -> nn.Module:
    """The network that a name stands for; arguments and errors as of `open_feature`."""
    if takes_preset(name):
        return open_i3d(name, Protocol.parse(preset or "stylegan-v"), trust_torchscript)
    if preset is not None:
        raise InputError(f"preset {preset}: feature {name} prepares clips in its own way; leave the preset out")
    if name in ALIASES or is_importable(name):
        return import_network(ALIASES.get(name, name))
    from cmd_lightning.metrics.transformers_features import TransformersFeatures

    return TransformersFeatures(name)


def takes_preset(name: str) -> bool:
    """Whether a name stands for an I3D, which needs to be told how clips are prepared for it."""
    return name in I3D_NAMES or name.endswith(WEIGHT_SUFFIXES)


def is_importable(name: str) -> bool:
    """Whether a name stands for something in a Python module, as "package.Class"."""
    return "." in name and all(part.isidentifier() for part in name.split(".")) and not Path(name).exists()


def import_network(name: str) -> nn.Module:
    """The module that "package.Class" makes when called without arguments.

    Raises:
        InputError: It cannot be imported, or makes no module.
    """
    try:
        network = pkgutil.resolve_name(name)()
    except Exception as error:  # whatever a stranger's module does when it is imported or made
        raise InputError(f"feature {name}: {error}; give a class or function that makes a module by itself") from error
    if not isinstance(network, nn.Module):
        raise InputError(f"feature {name}: it makes a {type(network).__name__}, and must make a torch module")
    return network
