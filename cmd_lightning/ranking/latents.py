"""The clips of a ranking: rendered, encoded and measured once, and kept on disk for all models and seeds."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from cmd_lightning.atomic_files import replaced
from cmd_lightning.data.plan import stable_hash
from cmd_lightning.latent_space import from_uint8, to_uint8
from cmd_lightning.networks import Condition
from cmd_lightning.pipeline import CMDPipeline
from cmd_lightning.provenance import fingerprint
from cmd_lightning.ranking.captions import StoredCaptions, encode
from cmd_lightning.ranking.protocol import Protocol, digest
from cmd_lightning.shapes.drawing import draw_scene
from cmd_lightning.shapes.features import ShapesFeatures
from cmd_lightning.shapes.painting import render
from cmd_lightning.shapes.reader import ShapesReader
from cmd_lightning.shapes.scenes import Scene

FORMAT = "cmd-lightning ranking latents 1"
BATCH = 32
PROBED = 3
"""So many clips of each split are drawn whenever a cache is looked for, so that another world is another cache."""


@dataclass(frozen=True)
class Bench:
    """What models are trained and scored with.

    Attributes:
        pipeline: The frozen parts; its motion model is whichever is looked at.
        features: Network of the distances.
        reader: Says which way a plain clip moves.
        tensors: By split and name: "train/content" (N, C, H, W) and "train/motion" (N, D, T, S), half precision and not
            normalised; "test/content" and "test/motion" in full; "test/features", "test/reconstruction", "val/features"
            (N, d): of held-out clips, of their reconstructions, and of as many other clips.
        captions: Of the clips, by split.
        directions: Of the plain ones among the held-out clips, by row.
        key: Fingerprint of all this.
    """

    pipeline: CMDPipeline
    features: ShapesFeatures
    reader: ShapesReader
    tensors: dict[str, Tensor]
    captions: dict[str, list[str]]
    directions: dict[int, str]
    key: str


def scenes(protocol: Protocol, split: str, number: int) -> list[Scene]:
    """The scenes of a split; training shows only the "seen" combinations of shape, colour and direction."""
    seed = stable_hash(protocol.data_seed, split)
    combinations = "seen" if split == "train" else "all"
    return [
        draw_scene(
            seed,
            index,
            level=protocol.levels[index % len(protocol.levels)],
            motion=protocol.motion,
            frames=protocol.frames,
            combinations=combinations,
        )
        for index in range(number)
    ]


def open_bench(
    protocol: Protocol, folder: Path, tell: Callable[[str], None], pipeline: CMDPipeline | None = None
) -> Bench:
    """The bench of a protocol, from the cache in `folder`, or made and put there.

    Args:
        protocol: Which clips.
        folder: Of the caches of all protocols.
        tell: Takes lines of progress.
        pipeline: The frozen parts; by default those of the protocol's model.
    """
    pipeline = pipeline or frozen(protocol.model)
    features, reader = ShapesFeatures.from_pretrained(), ShapesReader.from_pretrained()
    facts = protocol.data | {
        "autoencoder": fingerprint(pipeline.autoencoder.state_dict()),
        "text_encoder": fingerprint(pipeline.motion_text_encoder.state_dict()),
        "features": features.origin["sha256"],
        "reader": reader.origin["sha256"],
        "clips": {split: probe(protocol, split) for split in ("train", "test", "val")},
    }
    path = folder / f"{digest(facts)}.safetensors"
    found = read(path, facts)
    if found is None:
        tell(f"rendering and encoding {protocol.train_clips + protocol.test_clips} clips, once for all models")
        found = make(protocol, pipeline, features)
        folder.mkdir(parents=True, exist_ok=True)
        tensors, about = found
        with replaced(path) as draft:
            save_file(tensors, draft, {"format": FORMAT, "facts": json.dumps(facts), "about": json.dumps(about)})
    tensors, about = found
    table = Condition(*(tensors[f"text/{name}"] for name in ("pooled", "tokens", "mask")))
    table = table.map(lambda tensor: tensor.float() if tensor.is_floating_point() else tensor)
    pipeline.register_modules(motion_text_encoder=StoredCaptions.of(about["encoded"], table))
    directions = {int(row): name for row, name in about["directions"].items()}  # JSON has texts for keys
    return Bench(pipeline, features, reader, tensors, about["captions"], directions, digest(facts))


def frozen(model: str) -> CMDPipeline:
    """A model of the zoo without what a ranking does not use."""
    from diffusers.utils import logging

    logging.disable_progress_bar()
    pipeline = CMDPipeline.from_pretrained(model, unet=None, text_encoder=None, motion_model=None)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def probe(protocol: Protocol, split: str) -> str:
    """A fingerprint of the first clips of a split."""
    drawn = scenes(protocol, split, PROBED)
    clips = {scene.caption: render(scene, protocol.frames, protocol.size) for scene in drawn}
    return fingerprint(clips)


def read(path: Path, facts: dict[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Tensors and facts about clips from a cache; None where it is missing, damaged or of something else."""
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT or json.loads(metadata["facts"]) != facts:
                return None
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return tensors, json.loads(metadata["about"])
    except (OSError, SafetensorError, KeyError, ValueError):
        return None


@torch.no_grad()
def make(
    protocol: Protocol, pipeline: CMDPipeline, features: ShapesFeatures
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Renders, encodes and measures the clips; see `Bench`."""
    tensors: dict[str, Tensor] = {}
    captions: dict[str, list[str]] = {}
    directions: dict[str, str] = {}
    numbers = {"train": protocol.train_clips, "test": protocol.test_clips, "val": protocol.test_clips}
    for split, number in numbers.items():
        drawn = scenes(protocol, split, number)
        parts: dict[str, list[Tensor]] = {}
        for first in range(0, number, BATCH):
            batch = drawn[first : first + BATCH]
            video = torch.stack([render(scene, protocol.frames, protocol.size) for scene in batch])
            for name, value in measured(split, video, pipeline, features).items():
                parts.setdefault(name, []).append(value)
        tensors |= {f"{split}/{name}": torch.cat(values) for name, values in parts.items()}
        if split != "val":
            captions[split] = [scene.caption for scene in drawn]
        if split == "test":
            plain = {row: scene for row, scene in enumerate(drawn) if scene.level == "plain"}
            directions = {str(row): scene.things[0].direction for row, scene in plain.items()}
    encoded = sorted({"", *captions["train"], *captions["test"]})
    for name, value in encode(pipeline.motion_text_encoder, encoded).items():
        tensors[f"text/{name}"] = value.half() if value.is_floating_point() else value
    return tensors, {"encoded": encoded, "captions": captions, "directions": directions}


def measured(split: str, video: Tensor, pipeline: CMDPipeline, features: ShapesFeatures) -> dict[str, Tensor]:
    """What is kept of clips, uint8 (B, C, T, H, W), of a split."""
    if split == "val":
        return {"features": features(video)}
    content, motion = pipeline.autoencoder.encode(from_uint8(video))
    if split == "train":
        return {"content": content.half(), "motion": motion.half()}
    reconstruction = to_uint8(pipeline.decode(content, motion))
    return {
        "content": content,
        "motion": motion,
        "features": features(video),
        "reconstruction": features(reconstruction),
    }
