"""open_feature: the network for a name, a file or a module; dotted names are imported only when they are asked for."""

from __future__ import annotations

import pkgutil
from pathlib import Path
from typing import TypeVar

from torch import nn

from cmd_lightning.errors import InputError
from cmd_lightning.metric_names import ALIASES, is_importable, takes_preset
from cmd_lightning.metrics.i3d_weights import open_i3d
from cmd_lightning.metrics.precision import Frozen, float32_weights
from cmd_lightning.metrics.preparation import Preparation, Prepared

Part = TypeVar("Part")


@float32_weights()
def open_feature(
    feature: nn.Module | str | Path, preset: str | Preparation | None = None, trust_torchscript: bool = False
) -> nn.Module:
    """The network from clips `(B, C, T, H, W)`, float in [0, 1], to features `(B, d)`, frozen: see `Frozen`.

    Args:
        feature: One of
            - a module, used as it is, or behind the preparation of `preset` if that is given;
            - "i3d" or "i3d-torchscript": the published I3D, see `open_i3d`;
            - a file of I3D weights (.pt, .pth, .safetensors);
            - "module.Class": anything importable that gives such a module when called without arguments;
            - "shapes": short for the features of the procedural world, see `ALIASES`;
            - an id or a folder of a VideoMAE or V-JEPA 2 checkpoint, see `TransformersFeatures`.
        preset: How clips are prepared: see `Preparation.parse`. The I3D needs one, "stylegan-v" by default; the shapes
            features and those of transformers have their own preparation.
        trust_torchscript: Whether to open torchscript weights of unknown origin: see `open_i3d`.

    Raises:
        InputError: Nothing of that name, or a preset where none applies.
    """
    if isinstance(feature, nn.Module):
        network = feature if preset is None else Prepared(feature, Preparation.parse(preset))
    elif not isinstance(feature, str | Path):
        raise InputError(f"feature {feature!r:.60}: give a torch module, a name, or a file of weights")
    elif takes_preset(name := str(feature)):
        network = open_i3d(name, Preparation.parse(preset or "stylegan-v"), trust_torchscript)
    elif preset is not None:
        raise InputError(f"preset {preset}: feature {name} prepares clips in its own way; leave the preset out")
    elif is_importable(name, "feature"):
        network = import_part(name, "feature", nn.Module)
    else:
        from cmd_lightning.metrics.transformers_features import TransformersFeatures

        network = TransformersFeatures(name)
    return network if isinstance(network, Frozen) else Frozen(network)


def import_part(name: str, role: str, kind: type[Part]) -> Part:
    """Import "package.Class", or what an alias stands for, and call it without arguments."""
    name = ALIASES.get(role, {}).get(name, name)
    try:
        part = pkgutil.resolve_name(name)()
    except InputError:
        raise
    except Exception as error:  # a third-party module may raise anything when it is imported or called
        wanted = f"a class or function that makes a {kind.__name__} without arguments"
        raise InputError(f"{role} {name}: {error}; give {wanted}") from error
    if not isinstance(part, kind):
        raise InputError(f"{role} {name}: it makes a {type(part).__name__}, and must make a {kind.__name__}")
    return part
