"""A motion model whose attention is linear in the number of tokens."""

from __future__ import annotations

from torch import Tensor, nn

from cmd_lightning.networks import LatentSpec
from cmd_lightning.networks.attention import AttentionLayer
from cmd_lightning.networks.slots import SlotDiT


class LinearDiT(SlotDiT):
    """Diffusion transformer with linear attention; not in the paper.

    Every point of the motion latent may be a token: twice the frames or slots take twice the work. What
    linear attention does badly, telling neighbours apart, a convolution over time in each block does (as Han et al.,
    arXiv 2308.00442, add one over space). The content frame is pooled onto the slots, in any layout.
    Arguments: as for `SlotDiT`.
    """

    def __init__(
        self,
        latent_spec: LatentSpec,
        condition_dim: int,
        width: int = 1024,
        depth: int = 24,
        heads: int = 16,
        frames: int = 1,
        content_patch_size: int = 4,
        mlp_ratio: float = 4.0,
    ) -> None:
        def mixing(block: int) -> LinearAttention:
            return LinearAttention(width, heads, latent_spec.motion[2])

        super().__init__(latent_spec, condition_dim, width, depth, heads, frames, content_patch_size, mlp_ratio, mixing)


class LinearAttention(AttentionLayer):
    """Attention with weights softmax(q) softmax(k)ᵀ, and a depthwise convolution of the values over time.

    The softmax of a query is over its channels, that of the keys over the tokens, so that the weights of each token sum
    to one (Shen et al., arXiv 1812.01243). Keys meet values first: no matrix of N × N weights is ever made.
    """

    def __init__(self, width: int, heads: int, slots: int) -> None:
        super().__init__(width, heads, width // heads, qkv_bias=True)
        self.slots = slots
        self.local = nn.Conv2d(width, width, (3, 1), padding=(1, 0), groups=width)

    def forward(self, x: Tensor) -> Tensor:
        """`x` `(B, T * S, width)`, row-major."""
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        attended = linear_attention(*(part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (q, k, v)))
        local = self.local(v.mT.unflatten(2, (-1, self.slots))).flatten(2).mT
        return self.out(attended.transpose(1, 2).flatten(2) + local)


def linear_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Softmax(`q`) (softmax(`k`)ᵀ `v`) of tensors `(B, heads, N, head_dim)`."""
    return q.softmax(dim=3) @ (k.softmax(dim=2).mT @ v)
