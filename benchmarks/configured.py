"""The networks that a folder of configs asks for, on the meta device, each with what it is called on for one clip."""

from __future__ import annotations

import argparse
import pydoc
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jsonargparse
import torch
from lightning import LightningDataModule, LightningModule

from benchmarks.calls import Call, call_of, image_latents
from cmd_lightning import zoo
from cmd_lightning.commands.config_errors import explain
from cmd_lightning.commands.training import CMDCLI, known_classes
from cmd_lightning.errors import InputError
from cmd_lightning.networks import LatentSpec

STAGES = ("content", "motion")
"""The diffusion stages."""
LEFT_OPEN = {"StableDiffusionContent": "--model.base=BASE", "FrameLatents": "--model.latent_space.vae=BASE"}
"""Options that configs with these classes leave to their user; nothing is opened here, so any name does."""

Overrides = Mapping[str, Sequence[Path]]
"""Files laid over the configs of a folder, by stage: "autoencoder", "content", "motion", or "cmd" for the clips."""
Configs = Mapping[str, Mapping[str, Any]]
"""What the configs of a folder say, by the same names."""


class ParsedOnly(CMDCLI):
    """The command line, as far as it has read its configs."""

    def instantiate_classes(self) -> None:
        """Makes no objects."""


def parsed(*configs: Path) -> dict[str, Any]:
    """What the command line reads in configs, each laid over the one before, as plain data.

    Raises:
        InputError: A file is missing or wrong.
    """
    zoo.import_all()
    arguments = []
    for path in configs:
        if not path.is_file():
            raise InputError(f"{path}: there is no such config")
        text = path.read_text()
        # After the config that names the class, so that the next one may take it away.
        arguments += [f"--config={path}", *(option for name, option in LEFT_OPEN.items() if name in text)]
    kinds = {"model_class": LightningModule, "datamodule_class": LightningDataModule}
    both = {"subclass_mode_model": True, "subclass_mode_data": True}
    try:
        cli = ParsedOnly(**kinds, **both, run=False, parser_kwargs={"exit_on_error": False}, args=arguments)
    except jsonargparse.ArgumentError as error:
        raise InputError(f"{', '.join(map(str, configs))}: {explain(str(error), known_classes())}") from error
    return cli.config.as_dict()


def clip_shape(data: Mapping[str, Any], latent_space: Mapping[str, Any] | None) -> tuple[int, int, int, int]:
    """The shape `(C, T, H, W)` of what an autoencoder sees of a clip.

    Args:
        data: Arguments of the clips' DataModule, as a config has them.
        latent_space: Class and arguments of the autoencoder's latent space; None for pixels.
    """
    size = data["size"]
    height, width = (size, size) if isinstance(size, int) else size
    video = 3, data["num_frames"], height, width
    return video if latent_space is None or latent_space["class_path"].endswith("Pixels") else image_latents(video)


def read(folder: Path, laid_over: Overrides | None = None) -> Configs:
    """The configs of a folder, with what is laid over them.

    Raises:
        InputError: A file is missing, or a stage unknown.
    """
    names, over = ("autoencoder", *STAGES, "cmd"), laid_over or {}
    for stage in over.keys() - set(names):
        raise InputError(f"--override {stage}=...: there is no such stage; give autoencoder, content, motion or cmd")
    return {name: parsed(folder / f"{name}.yaml", *over.get(name, ())) for name in names}


def calls(configs: Configs) -> dict[str, Call]:
    """The networks of the three stages, on the meta device, by stage."""
    options = {stage: configs[stage]["model"]["init_args"] for stage in ("autoencoder", *STAGES)}
    shape = clip_shape(configs["cmd"]["data"]["init_args"], options["autoencoder"].get("latent_space"))
    with torch.device("meta"):
        autoencoder = build(options["autoencoder"]["network"])
        spec: LatentSpec = autoencoder.latent_spec(shape)
        dims = {stage: options[stage].get("text_width") or build(options[stage]["condition"]).dim for stage in STAGES}
        content, motion = (build(options[stage]["network"], spec, dims[stage]) for stage in STAGES)
    latents = {"autoencoder": (shape,), "content": (spec.content,), "motion": (spec.motion, spec.content)}
    networks = {"autoencoder": autoencoder, "content": content, "motion": motion}
    return {stage: call_of(stage, network, latents[stage], dims.get(stage, 0)) for stage, network in networks.items()}


def build(described: Mapping[str, Any], *first: Any) -> Any:
    """The object of a class_path with its init_args, after the arguments that a component gives."""
    return pydoc.locate(described["class_path"])(*first, **described["init_args"])


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the folder, and what is laid over its configs."""
    parser.add_argument("folder", type=Path, help="of autoencoder.yaml, content.yaml, motion.yaml and cmd.yaml")
    parser.add_argument(
        *("--override", "-o"), action="append", default=[], help="STAGE=FILE, laid over its config; cmd=FILE: the clips"
    )


def asked(options: argparse.Namespace) -> Configs:
    """The configs that the command line asks for."""
    found: dict[str, list[Path]] = {}
    for given in options.override:
        stage, _, file = given.partition("=")
        found.setdefault(stage, []).append(Path(file))
    return read(options.folder, found)
