"""Training options of the autoencoder that make its latents easier for diffusion models to learn."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from cmd_lightning.errors import InputError
from cmd_lightning.networks.contracts import AutoencoderNetwork

Draw = Callable[[str, tuple[int, ...]], Tensor]
"""A function from a name and the shape of one sample to standard normal values for a batch, `(B, *shape)`."""


class LatentRegulariser:
    """Adds noise and masks to the latents between encoder and decoder, and a loss at half size; all off by default.

    Args:
        content_noise: Standard deviation of noise on the content frame before it is decoded, constant, as in
            Unified Latents (arXiv 2602.17270): smaller detail is lost, and the decoder corrects errors of that size.
        motion_noise: The same for the motion latent, which is in [-1, 1].
        motion_mask: Share of the motion slots that are set to zero before decoding, all frames of a slot together;
            the decoder fills them in from the others (latent denoising, arXiv 2507.15856).
        scale_weight: Weight of scale equivariance (arXiv 2502.09509, 2502.14831): the content frame at half size, with
            the motion of the clip at half size, must decode to the clip at half size.

    Raises:
        InputError: A value is out of range.
    """

    def __init__(
        self,
        content_noise: float = 0.0,
        motion_noise: float = 0.0,
        motion_mask: float = 0.0,
        scale_weight: float = 0.0,
    ) -> None:
        for name, value in (
            ("content_noise", content_noise),
            ("motion_noise", motion_noise),
            ("scale_weight", scale_weight),
        ):
            if value < 0:
                raise InputError(f"regulariser.{name} {value}: give 0 or more")
        if not 0 <= motion_mask < 1:
            raise InputError(f"regulariser.motion_mask {motion_mask}: give a share from 0 to below 1")
        self.content_noise, self.motion_noise = content_noise, motion_noise
        self.motion_mask, self.scale_weight = motion_mask, scale_weight

    def disturb(self, content: Tensor, motion: Tensor, draw: Draw) -> tuple[Tensor, Tensor]:
        """Content frames `(B, C, H, W)` and motion latents `(B, D, T, S)` with noise added and slots masked."""
        if self.content_noise:
            content = content + self.content_noise * draw("content noise", content.shape[1:]).to(content)
        if self.motion_noise:
            motion = motion + self.motion_noise * draw("motion noise", motion.shape[1:]).to(motion)
        if self.motion_mask:
            # A standard normal value is below this quantile with probability `motion_mask`.
            quantile = torch.special.ndtri(torch.tensor(self.motion_mask)).to(motion.device)
            kept = draw("motion mask", motion.shape[-1:]) >= quantile
            motion = motion * kept[:, None, None].to(motion)
        return content, motion

    def extra_loss(
        self,
        network: AutoencoderNetwork,
        video: Tensor,
        content: Tensor,
        error: Callable[[Tensor, Tensor], Tensor],
    ) -> Tensor | float:
        """A term to add to the reconstruction loss; 0 if disabled.

        Args:
            network: The autoencoder.
            video: `(B, C, T, H, W)`.
            content: Its content frames, `(B, C, H, W)`.
            error: The reconstruction loss, a function of reconstruction and video.
        """
        if not self.scale_weight:
            return 0.0
        small = F.avg_pool3d(video, (1, 2, 2))
        _, motion = network.encode(small)
        return self.scale_weight * error(network.decode(F.avg_pool2d(content, 2), motion), small)
