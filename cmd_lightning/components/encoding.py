"""Encoding of clips for latent shards, on as many devices and nodes as the Trainer has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from cmd_lightning.components import draws
from cmd_lightning.components.frozen import FrozenParts
from cmd_lightning.conditioning import ConditionEncoder
from cmd_lightning.latent_space import LatentSpace, from_uint8
from cmd_lightning.networks.contracts import AutoencoderNetwork


class Encoding(FrozenParts):
    """Encodes the chunks of an `EncodingData` as training would, with the same noise for each clip.

    Args:
        latent_space: The space of the autoencoder's inputs.
        autoencoder: Splits a clip into content frame and motion latent; None keeps the moments of the latent space.
        text: Frozen encoders of captions.
        draw: Whether to sample posteriors, as in training, or to use their means, as in validation.
    """

    def __init__(
        self,
        latent_space: LatentSpace,
        autoencoder: AutoencoderNetwork | None = None,
        text: Sequence[ConditionEncoder] = (),
        draw: bool = True,
    ) -> None:
        super().__init__()
        self.draw, self.splits = draw, autoencoder is not None
        self.text_names = [f"text_{number}" for number in range(len(text))]
        encoders = dict(zip(self.text_names, text, strict=True))
        self.keep_frozen(latent_space=latent_space, autoencoder=autoencoder, **encoders)

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Any]:
        """The entries of a latent shard for a chunk: its "latents", and the "text" of the first clip of each video.

        `{"latents": {name: tensor}, "text": {fingerprint: {part: tensor}}}`; {} at the end of a shard.
        """
        if "video" not in batch:
            return {}
        captions = [caption for caption, epoch in zip(batch["caption"], batch["epoch"], strict=True) if epoch == 0]
        return {"latents": self.latents(batch), "text": self.text(captions) if captions else {}}

    def latents(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Moments, or content and motion, of a chunk."""
        moments = self.latent_space.moments(from_uint8(batch["video"], self.dtype))
        if not self.splits:
            return {"moments": moments}

        def noise(shape: tuple[int, ...]) -> Tensor:
            return draws.normal(shape, "posterior", batch["key"], batch["epoch"]).to(self.device)

        latent = self.latent_space.latent(moments, noise if self.draw else None)
        content, motion = self.autoencoder.encode(latent)
        return {"content": content, "motion": motion}

    def text(self, captions: Sequence[str]) -> dict[str, dict[str, Tensor]]:
        """The encoded captions of each encoder, by its fingerprint."""
        encoders = (getattr(self, name) for name in self.text_names)
        return {
            encoder.fingerprint: {part: value for part, value in vars(encoder(captions)).items() if value is not None}
            for encoder in encoders
        }
