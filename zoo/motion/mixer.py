"""A motion model of perceptrons alone, for speed on CPUs."""

from __future__ import annotations

from torch import Tensor, nn

from cmd_lightning.networks import LatentSpec
from cmd_lightning.networks.slots import SlotDiT


class MotionMixer(SlotDiT):
    """MLP-Mixer over the motion latent, without attention; not in the paper.

    In each block one perceptron mixes the tokens, the same for all channels, and one the channels, the same for all
    tokens (Tolstikhin et al., arXiv 2105.01601), under adaLN-Zero as in a diffusion transformer. That is two pairs of
    large matrix products a block, what CPUs do best. The content frame is pooled onto the slots, in any
    layout. It takes the numbers of frames and slots in `latent_spec` only. Other arguments: as for `SlotDiT`.

    Args:
        tokens_width: Hidden channels of the perceptrons that mix the tokens.
        mlp_ratio: Hidden channels of the perceptrons that mix the channels, over `width`.
    """

    def __init__(
        self,
        latent_spec: LatentSpec,
        condition_dim: int,
        width: int = 768,
        depth: int = 12,
        frames: int = 2,
        tokens_width: int = 384,
        content_patch_size: int = 4,
        mlp_ratio: float = 4.0,
    ) -> None:
        tokens = -(-latent_spec.motion[1] // frames) * latent_spec.motion[2]

        def mixing(block: int) -> TokenMixing:
            return TokenMixing(tokens, tokens_width)

        super().__init__(latent_spec, condition_dim, width, depth, 1, frames, content_patch_size, mlp_ratio, mixing)


class TokenMixing(nn.Sequential):
    """A perceptron over the tokens, the same for all channels."""

    def __init__(self, tokens: int, hidden: int) -> None:
        super().__init__(nn.Linear(tokens, hidden), nn.GELU(approximate="tanh"), nn.Linear(hidden, tokens))

    def forward(self, x: Tensor) -> Tensor:
        """`x` `(B, N, width)`."""
        return super().forward(x.mT).mT
