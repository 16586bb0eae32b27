"""The first stage: learns to split a clip into content frame and motion latent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor
from torch.optim import Adam

from cmd_lightning.components.base import Component, OptimizerFactory
from cmd_lightning.components.checkpoints import Stage
from cmd_lightning.components.latent_regulariser import LatentRegulariser
from cmd_lightning.errors import InputError
from cmd_lightning.latent_space import LatentSpace, content_row
from cmd_lightning.metrics.reconstruction import scores
from cmd_lightning.networks import AutoencoderNetwork


def adam(params: Any) -> Adam:
    """The paper's optimiser of the autoencoder (App. B.3)."""
    return Adam(params, lr=1e-5, betas=(0.5, 0.9))


class VideoAutoencoder(Component):
    """Trains an autoencoder network to reconstruct clips (paper section 3.2).

    Args:
        network: Creates the network.
        loss: "l2" is the paper's "simple reconstruction objective"; the authors used "l1" on pixels.
        latent_space: The space of its inputs, such as `FrameLatents` of Stable Diffusion's VAE; pixels by default.
        regulariser: Makes the latents easier to learn, by noise, masks or scales; off by default, as in the paper.
        optimizer: Creates the optimiser from the trainable weights; by default the paper's.
        **kwargs: Arguments of `Component`.

    Examples:
        A small autoencoder, before training. A batch is a dictionary with `video`, and `fps`, the frames per second:

        >>> import torch
        >>> from cmd_lightning.components import VideoAutoencoder
        >>> from cmd_lightning.zoo.autoencoders.cmd import CMDAutoencoder
        >>> stage = VideoAutoencoder(network=lambda: CMDAutoencoder(width=16, depth=1, heads=2, head_dim=8)).eval()
        >>> batch = {"video": torch.rand(2, 3, 4, 8, 8), "fps": torch.full((2,), 8.0)}
        >>> {name: tuple(images.shape) for name, images in stage.preview(batch).items()}
        {'original': (2, 3, 4, 8, 8), 'content frame': (2, 3, 1, 8, 8), 'reconstruction': (2, 3, 4, 8, 8)}
    """

    stage = "autoencoder"
    network: AutoencoderNetwork

    def __init__(
        self,
        network: Callable[[], AutoencoderNetwork],
        loss: Literal["l1", "l2"] = "l2",
        latent_space: LatentSpace | None = None,
        regulariser: LatentRegulariser | None = None,
        optimizer: OptimizerFactory = adam,
        **kwargs: Any,
    ) -> None:
        super().__init__(optimizer, **kwargs)
        self.keep_frozen(latent_space=latent_space)
        self.network = network()
        self.loss, self.regulariser = loss, regulariser or LatentRegulariser()

    @classmethod
    def arguments_of(cls, stage: Stage) -> dict[str, Any]:
        regulariser = LatentRegulariser(**stage.arguments.get("regulariser", {}))
        network = {"network": lambda: stage.parts["network"], "latent_space": stage.latent_space}
        return network | {"regulariser": regulariser}

    def arguments(self) -> dict[str, Any]:
        return {"loss": self.loss, "regulariser": vars(self.regulariser)}

    def parts(self) -> dict[str, Any]:
        return {"latent_space": self._frozen["latent_space"], "network": self.network}

    def check_shape(self, video_shape: tuple[int, int, int, int]) -> None:
        self.network.latent_spec(video_shape)

    def check_clip(self, frames: int, height: int, width: int) -> None:
        super().check_clip(frames, height, width)
        least = self.latent_space.factor * self.network.granularity
        if height % least or width % least:
            raise InputError(
                f"data.size [{height}, {width}]: height and width must be multiples of {least}, which is "
                f"{self.latent_space.factor} pixels per latent point times the autoencoder's patch size "
                f"{self.network.granularity}; choose another"
            )

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        video = self.video(batch)
        content, motion = self.network.encode(video)
        # At first the mean of all steps so far, later of about the last hundred.
        self.network.measure_motion(motion, momentum=min(0.99, self.global_step / (self.global_step + 1)))
        disturbed = self.regulariser.disturb(content, motion, lambda name, shape: self.normal(batch, name)(shape))
        loss = self.error(self.network.decode(*disturbed), video)
        loss = loss + self.regulariser.extra_loss(self.network, video, content, self.error)
        self.log("train/loss", loss, prog_bar=True, batch_size=len(video))
        return loss

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        video = self.video(batch)
        reconstruction = self.network(video)
        self.log_mean("val/loss", self.error(reconstruction, video), len(video))
        if "video" not in batch:  # only moments: there are no pixels to compare with
            return
        pixels = self.clip_range.pixels(batch["video"], self.dtype)
        for name, value in scores(self.latent_space.decode(reconstruction), pixels).items():
            self.log_mean(f"val/{name}", value.mean(), len(video), prog_bar=name == "psnr")

    def error(self, reconstruction: Tensor, video: Tensor) -> Tensor:
        """The reconstruction objective, a scalar in float32."""
        difference = reconstruction.float() - video.float()
        return difference.abs().mean() if self.loss == "l1" else difference.square().mean()

    @torch.no_grad()
    def preview(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        video = self.video(batch)
        content, motion = self.network.encode(video)
        decode = self.latent_space.decode
        return {
            "original": decode(video),
            **content_row(self.latent_space, content, video.shape[1]),
            "reconstruction": decode(self.network.decode(content, motion)),
        }
