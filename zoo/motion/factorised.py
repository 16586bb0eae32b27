"""A motion model whose attention alternates between time and slots."""

from __future__ import annotations

from torch import Tensor

from cmd_lightning.networks import LatentSpec
from cmd_lightning.networks.attention import AttentionLayer
from cmd_lightning.networks.slots import SlotDiT


class FactorisedDiT(SlotDiT):
    """Diffusion transformer with attention factorised over time and slots; not in the paper.

    Blocks alternate: attention over time within each slot, then over the slots within each frame (as TimeSformer,
    Bertasius et al., arXiv 2102.05095, and the first variant of Latte, Ma et al., arXiv 2401.03048, do with time and
    space). A token attends to T or S others, not to T × S: many short sequences, so that tokens may be fine. The
    content frame is pooled onto the slots, in any layout. Other arguments: as for `SlotDiT`.

    Args:
        depth: Number of blocks; even ones, from 0, attend over time, odd ones over slots.
    """

    def __init__(
        self,
        latent_spec: LatentSpec,
        condition_dim: int,
        width: int = 1152,
        depth: int = 28,
        heads: int = 16,
        frames: int = 2,
        content_patch_size: int = 4,
        mlp_ratio: float = 4.0,
    ) -> None:
        def mixing(block: int) -> AxisAttention:
            return AxisAttention(width, heads, latent_spec.motion[2], over_time=block % 2 == 0)

        super().__init__(latent_spec, condition_dim, width, depth, heads, frames, content_patch_size, mlp_ratio, mixing)


class AxisAttention(AttentionLayer):
    """Attention along one axis of a grid of times × slots: to tokens of the same slot, or else of the same time."""

    def __init__(self, width: int, heads: int, slots: int, over_time: bool) -> None:
        super().__init__(width, heads, width // heads, qkv_bias=True)
        self.slots, self.over_time = slots, over_time

    def forward(self, x: Tensor) -> Tensor:
        """`x` `(B, T * S, width)`, row-major."""
        x = x.unflatten(1, (-1, self.slots))
        if self.over_time:
            x = x.transpose(1, 2)
        y = self.attend(*self.project(x.flatten(0, 1))).unflatten(0, x.shape[:2])
        if self.over_time:
            y = y.transpose(1, 2)
        return y.flatten(1, 2)
