"""The clips of a ranking: rendered, encoded and measured once, and kept on disk for all models and seeds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from cmd_lightning.atomic_files import replaced
from cmd_lightning.conditioning import ConditionEncoder
from cmd_lightning.data.plan import stable_hash
from cmd_lightning.errors import InputError
from cmd_lightning.latent_space import from_uint8, to_uint8
from cmd_lightning.networks import Condition
from cmd_lightning.pipeline import CMDPipeline
from cmd_lightning.progress import progress
from cmd_lightning.provenance import fingerprint
from cmd_lightning.ranking.protocol import Protocol, digest
from cmd_lightning.shapes.drawing import draw_scene
from cmd_lightning.shapes.features import ShapesFeatures
from cmd_lightning.shapes.painting import render
from cmd_lightning.shapes.reader import ShapesReader
from cmd_lightning.shapes.scenes import Scene

FORMAT = "cmd-lightning ranking latents 2"
BATCH, TEXTS = 32, 64
"""Clips and captions to encode at a time."""
PROBED = 3
"""Clips of each split that are rendered to find a cache, so that a changed world does not use an old one."""


@dataclass(frozen=True)
class Bench:
    """The frozen parts and the clips that models are trained and scored with.

    Attributes:
        pipeline: The frozen parts, with the motion model that is being scored.
        features: Feature network of the distances.
        reader: Classifies the direction of a plain clip.
        tensors: By split and name: "train/content" `(N, C, H, W)` and "train/motion" `(N, D, T, S)`, half precision and
            not normalised; "test/content" and "test/motion" in full precision; "test/features", "test/reconstruction"
            and "val/features" `(N, d)`: features of held-out clips, of their reconstructions, and of as many others.
        captions: Captions of the clips, by split.
        directions: Directions of the plain held-out clips, by row.
        key: A fingerprint of all of these.
    """

    pipeline: CMDPipeline
    features: ShapesFeatures
    reader: ShapesReader
    tensors: dict[str, Tensor]
    captions: dict[str, list[str]]
    directions: dict[int, str]
    key: str


class StoredCaptions(ConditionEncoder):
    """A frozen text encoder that looks up each caption in a table of conditions.

    The constructor takes no captions, as all its arguments are recorded in `config`; use `of`.

    Args:
        dim: Channels K of the condition.
    """

    field = "caption"
    frozen = True
    fingerprint = "stored captions"

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self._rows: dict[str, int] = {}

    @classmethod
    def of(cls, captions: Sequence[str], table: Condition) -> StoredCaptions:
        """The encoder of `captions`: row i of `table` is the condition of caption i."""
        encoder = cls(table.pooled.shape[1])
        encoder._rows = {caption: row for row, caption in enumerate(captions)}
        for name, tensor in vars(table).items():
            encoder.register_buffer(name, tensor, persistent=False)
        return encoder

    def forward(self, values: Sequence[str]) -> Condition:
        if missing := [value for value in values if value not in self._rows]:
            raise InputError(f"caption {missing[0]!r}: it is not among those that were encoded")
        rows = [self._rows[value] for value in values]
        return Condition(**{name: tensor[rows] for name, tensor in self.named_buffers()})


def scenes(protocol: Protocol, split: str, number: int) -> list[Scene]:
    """The scenes of a split; training shows only the "seen" combinations of shape, colour and direction."""
    seed = stable_hash(protocol.data_seed, split)
    options: dict[str, Any] = {"motion": protocol.motion, "frames": protocol.frames}
    options["combinations"] = "seen" if split == "train" else "all"
    levels = protocol.levels
    return [draw_scene(seed, index, level=levels[index % len(levels)], **options) for index in range(number)]


def rendered(scenes: Sequence[Scene], protocol: Protocol) -> Tensor:
    """The clips of scenes, uint8 `(N, C, T, H, W)`."""
    return torch.stack([render(scene, protocol.frames, protocol.size) for scene in scenes])


def open_bench(
    protocol: Protocol, folder: Path, tell: Callable[[str], None], pipeline: CMDPipeline | None = None
) -> Bench:
    """The bench of a protocol, from the cache in `folder`; created there if missing."""
    pipeline = pipeline or frozen(protocol.model)
    assert pipeline.motion_text_encoder is not None
    features, reader = ShapesFeatures.from_pretrained(), ShapesReader.from_pretrained()
    numbers = {"train": protocol.train_clips, "test": protocol.test_clips, "val": protocol.test_clips}
    drawn = {split: scenes(protocol, split, number) for split, number in numbers.items()}
    captions = {split: [scene.caption for scene in clips] for split, clips in drawn.items()}
    encoded = sorted({"", *captions["train"], *captions["test"]})
    probes = {
        split: dict(zip(captions[split], rendered(clips[:PROBED], protocol), strict=False))
        for split, clips in drawn.items()
    }
    facts = protocol.data | {
        "autoencoder": fingerprint(pipeline.autoencoder.state_dict()),
        "text_encoder": fingerprint(pipeline.motion_text_encoder.state_dict()),
        "features": features.origin["sha256"],
        "reader": reader.origin["sha256"],
        "clips": {split: fingerprint(clips) for split, clips in probes.items()},
    }
    key = digest(facts)
    path, about = folder / f"{key}.safetensors", digest({"format": FORMAT, "facts": facts, "captions": captions})
    if (tensors := read(path, about)) is None:
        tell(f"rendering and encoding {protocol.train_clips + protocol.test_clips} clips, once for all models")
        tensors = make(drawn, encoded, protocol, pipeline, features)
        folder.mkdir(parents=True, exist_ok=True)
        with replaced(path) as draft:
            save_file(tensors, draft, {"about": about})
    table = Condition(tensors["text/pooled"].float(), tensors["text/tokens"].float(), tensors["text/mask"])
    pipeline.register_modules(motion_text_encoder=StoredCaptions.of(encoded, table))
    directions = {row: scene.things[0].direction for row, scene in enumerate(drawn["test"]) if scene.level == "plain"}
    return Bench(pipeline, features, reader, tensors, captions, directions, key)


def frozen(model: str) -> CMDPipeline:
    """A model of the zoo without the parts that a ranking does not use."""
    from diffusers.utils import logging

    logging.disable_progress_bar()
    pipeline = CMDPipeline.from_pretrained(model, unet=None, text_encoder=None, motion_model=None)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def read(path: Path, about: str) -> dict[str, Tensor] | None:
    """The tensors of a cache; None if it is missing, damaged or of other clips."""
    try:
        with safe_open(path, "pt") as file:
            if (file.metadata() or {}).get("about") != about:
                return None
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError):
        return None


@torch.no_grad()
def make(
    drawn: Mapping[str, Sequence[Scene]],
    encoded: Sequence[str],
    protocol: Protocol,
    pipeline: CMDPipeline,
    features: ShapesFeatures,
) -> dict[str, Tensor]:
    """Renders, encodes and measures the clips of each split, and encodes the captions; see `Bench`."""
    tensors: dict[str, Tensor] = {}
    with progress("rendering and encoding", sum(map(len, drawn.values()))) as done:
        for split, scenes in drawn.items():
            batches = [scenes[first : first + BATCH] for first in range(0, len(scenes), BATCH)]
            parts = [measured(split, rendered(batch, protocol), pipeline, features) for batch in counted(batches, done)]
            tensors |= {f"{split}/{name}": torch.cat([part[name] for part in parts]) for name in parts[0]}
    encoder = pipeline.motion_text_encoder
    assert encoder is not None
    texts = [encoder(encoded[first : first + TEXTS]) for first in range(0, len(encoded), TEXTS)]
    for name in ("pooled", "tokens", "mask"):
        value = torch.cat([getattr(text, name) for text in texts])
        tensors[f"text/{name}"] = value.half() if value.is_floating_point() else value
    return tensors


def counted(batches: Sequence[Sequence[Scene]], done: Callable[[int], object]) -> Iterator[Sequence[Scene]]:
    """The batches; reports the clips of each one when the next is requested."""
    for batch in batches:
        yield batch
        done(len(batch))


def measured(split: str, video: Tensor, pipeline: CMDPipeline, features: ShapesFeatures) -> dict[str, Tensor]:
    """The tensors to keep of clips, uint8 `(B, C, T, H, W)`, of a split."""
    if split == "val":
        return {"features": features(video)}
    content, motion = pipeline.autoencoder.encode(from_uint8(video))
    if split == "train":
        return {"content": content.half(), "motion": motion.half()}
    reconstruction = features(to_uint8(pipeline.decode(content, motion)))
    return {"content": content, "motion": motion, "features": features(video), "reconstruction": reconstruction}
