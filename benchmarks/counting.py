"""Count the parameters of a network and the multiply-adds of a call without computing it.

    python -m benchmarks.counting configs/webvid_sd21
    python -m benchmarks.counting configs/webvid_sd21 --override autoencoder=configs/overrides/autoencoder_measured.yaml

The networks of a folder of configs are built on the meta device, where tensors have shapes and no values, and called
once with one clip; torch's flop counter sees every product. MACs are half of its FLOPs. The paper's efficiency tables
leave out the products within attention (queries with keys, weights with values), which the counter of its authors did
not see: "MACs as the paper counts" does too, "MACs" has them. Both are of one forward pass, without guidance.
"""

from __future__ import annotations

import argparse
import pydoc
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jsonargparse
import torch
from lightning import LightningDataModule, LightningModule

from benchmarks.calls import Call, Shape, call_of, image_latents
from benchmarks.cells import command_line
from cmd_lightning import markdown, zoo
from cmd_lightning.commands.class_paths import known_classes
from cmd_lightning.commands.config_errors import explain
from cmd_lightning.commands.parser import Parser
from cmd_lightning.commands.training import CMDCLI
from cmd_lightning.errors import InputError, program
from cmd_lightning.networks import LatentSpec
from cmd_lightning.networks.counting import Count

STAGES = ("content", "motion")
"""The diffusion stages."""
LEFT_OPEN = {"StableDiffusionContent": "--model.base=BASE", "FrameLatents": "--model.latent_space.vae=BASE"}
"""Options that configs with these classes leave to their user; nothing is opened here, so any name does."""

Configs = Mapping[str, Mapping[str, Any]]
"""What the configs of a folder say, by stage, and "cmd" for the clips."""


class ParsedOnly(CMDCLI):
    """The command line, as far as it has read its configs."""

    def instantiate_classes(self) -> None:
        """Creates no objects."""


def parsed(*configs: Path) -> dict[str, Any]:
    """What the command line reads in configs, each laid over the one before, as plain data."""
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


def read(folder: Path, laid_over: Mapping[str, Sequence[Path]] | None = None) -> Configs:
    """The configs of a folder, with files laid over them by stage ("autoencoder", "content", "motion", "cmd")."""
    names, over = ("autoencoder", *STAGES, "cmd"), laid_over or {}
    for stage in over.keys() - set(names):
        raise InputError(f"--override {stage}=...: there is no such stage; give autoencoder, content, motion or cmd")
    return {name: parsed(folder / f"{name}.yaml", *over.get(name, ())) for name in names}


def clip_shape(data: Mapping[str, Any], latent_space: Mapping[str, Any] | None) -> Shape:
    """The shape `(C, T, H, W)` of what an autoencoder sees of a clip, from a config's arguments of both."""
    size = data["size"]
    height, width = (size, size) if isinstance(size, int) else size
    video = 3, data["num_frames"], height, width
    return video if latent_space is None or latent_space["class_path"].endswith("Pixels") else image_latents(video)


def calls(configs: Configs) -> dict[str, Call]:
    """The networks of the three stages, on the meta device, by stage."""
    options = {stage: configs[stage]["model"]["init_args"] for stage in ("autoencoder", *STAGES)}
    shape = clip_shape(configs["cmd"]["data"]["init_args"], options["autoencoder"].get("latent_space"))
    with torch.device("meta"):
        autoencoder = build(options["autoencoder"]["network"])
        spec: LatentSpec = autoencoder.latent_spec(shape)
        dims = {stage: options[stage].get("text_width") or build(options[stage]["condition"]).dim for stage in STAGES}
        content, motion = (build(options[stage]["network"], spec, dims[stage]) for stage in STAGES)
    return {
        "autoencoder": call_of("autoencoder", autoencoder, [shape]),
        "content": call_of("content", content, [spec.content], dims["content"]),
        "motion": call_of("motion", motion, [spec.motion, spec.content], dims["motion"]),
    }


def build(described: Mapping[str, Any], *first: Any) -> Any:
    """The object of a class_path with its init_args, after the arguments that a component gives."""
    return pydoc.locate(described["class_path"])(*first, **described["init_args"])


def asked(parser: Parser) -> tuple[argparse.Namespace, Configs]:
    """The options of a command line about a folder, and its configs."""
    parser.add_argument("folder", type=Path, help="of autoencoder.yaml, content.yaml, motion.yaml and cmd.yaml")
    parser.add_argument(
        *("--override", "-o"), action="append", default=[], help="STAGE=FILE, laid over its config; cmd=FILE: the clips"
    )
    options = parser.parse_args()
    found: dict[str, list[Path]] = {}
    for given in options.override:
        stage, _, file = given.partition("=")
        found.setdefault(stage, []).append(Path(file))
    return options, read(options.folder, found)


def table(counts: dict[str, Count]) -> str:
    """Counts by name as a Markdown table."""
    rows = (
        (name, f"{found.parameters / 1e6:.1f}", f"{found.products / 1e12:.4f}", f"{found.macs / 1e12:.4f}")
        for name, found in counts.items()
    )
    return markdown.table(("network", "parameters, M", "MACs as the paper counts, T", "MACs, T"), rows)


def main() -> int:
    """The command line."""
    _, configs = asked(command_line(__doc__))
    print(table({name: call.count() for name, call in calls(configs).items()}))
    return 0


if __name__ == "__main__":
    program(main)
