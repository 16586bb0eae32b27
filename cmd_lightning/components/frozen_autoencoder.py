"""The frozen autoencoder of a stage that learns its latents, and that both belong together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from cmd_lightning.components.base import Component
from cmd_lightning.components.checkpoints import KEY, load_stage
from cmd_lightning.errors import InputError
from cmd_lightning.networks import LatentSpec
from cmd_lightning.networks.contracts import AutoencoderNetwork
from cmd_lightning.provenance import fingerprint


class FrozenAutoencoder(Component):
    """A component that learns the latents of an autoencoder, once `open_autoencoder` was called."""

    autoencoder: AutoencoderNetwork
    trained_on: str | None = None

    def open_autoencoder(
        self, autoencoder: str | AutoencoderNetwork, video_shape: Sequence[int] | None = None
    ) -> LatentSpec:
        """Takes an autoencoder, with its latent space and frame rate where it comes from a checkpoint.

        Args:
            autoencoder: Checkpoint of the autoencoder stage, or the trained network itself.
            video_shape: `(C, T, H, W)` in the latent space; by default what the autoencoder was trained on.

        Returns:
            The shapes of its latents.

        Raises:
            InputError: It cannot be opened, takes no such videos, or does not say what it was trained on.
        """
        if isinstance(autoencoder, nn.Module):
            frozen = autoencoder
        else:
            trained = load_stage(autoencoder, "autoencoder", "model.autoencoder")
            frozen, self.fps = trained.parts["network"], trained.fps
            self.freeze(latent_space=trained.latent_space)
            video_shape = video_shape or trained.video_shape
        if video_shape is None:
            raise InputError("model.video_shape: needed with an autoencoder that is not a checkpoint; give C, T, H, W")
        self.video_shape = tuple(video_shape)
        self.freeze(autoencoder=frozen)
        self.trained_on = fingerprint(frozen.state_dict())
        return frozen.latent_spec(self.video_shape)

    def encoded(self, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """The content frames and the normalised motion latents of a batch, from latent shards or by the autoencoder.

        Raises:
            InputError: The shards were made by another autoencoder, or for another shape.
        """
        if "content" not in batch:
            content, motion = self.autoencoder.encode(self.video(batch))
        else:
            self.check_origin(batch)
            content, motion = (batch[name].to(self.dtype) for name in ("content", "motion"))
            spec = self.autoencoder.latent_spec(self.video_shape)
            if (tuple(content.shape[1:]), tuple(motion.shape[1:])) != (spec.content, spec.motion):
                raise InputError(
                    f"data: latents of shapes {tuple(content.shape[1:])} and {tuple(motion.shape[1:])}, but the "
                    f"{self.stage} stage is built for {spec.content} and {spec.motion}; encode clips of the frames and "
                    "size that the autoencoder was trained on"
                )
        return content, self.autoencoder.normalize_motion(motion)

    @property
    def learned_from(self) -> str | None:
        """What checkpoints say the latents were of: the fingerprint of the autoencoder."""
        return self.trained_on

    def origin(self) -> dict[str, str]:
        return super().origin() | ({"autoencoder": self.trained_on} if self.trained_on else {})

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint[KEY]["trained_on"] = self.learned_from

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        if checkpoint[KEY]["trained_on"] != self.learned_from:
            raise InputError(
                "model.autoencoder: the checkpoint was trained on the latents of another autoencoder; "
                "give that one, or train anew without --ckpt_path"
            )
