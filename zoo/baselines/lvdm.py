"""LVDM's text-to-video model: Stable Diffusion's U-Net with temporal attention in its transformer blocks."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cmd_lightning.errors import check_positive
from cmd_lightning.networks import Condition, VideoDenoiser
from cmd_lightning.networks.attention import GEGLU, Attention, AttentionLayer
from cmd_lightning.networks.unet import UNet, group_norm, zero


class LVDM(UNet, VideoDenoiser):
    """U-Net of Latent Video Diffusion Models (arXiv 2211.13221), from its published text-to-video configuration.

    A baseline of the paper (its tables 8 to 10). Convolutions and group norms see one frame. The transformers of all
    levels but the coarsest attend over space, over time, to the text, and over time again; time attention knows
    relative positions. The configuration leaves that order open, not the sum: only two time attentions within each
    transformer, and no more, give the 0.96 B parameters that the paper reports. At `condition_dim` 768 the defaults
    have 958.9 M. It attends to all tokens of the text, padding included.

    The authors' weights are a checkpoint in another format, which cannot be read here. Other arguments: as for `UNet`.

    Args:
        latent: Shape `(C, T, H, W)` of a video in its latent space; other sizes and numbers of frames work too.
        condition_dim: Channels K of the condition's tokens; 0 for an unconditional model.
        width: Channels of the first level; even.
        heads: Attention heads; must divide the channels of every level that attends.
        temporal_length: Frames further apart than this share a relative position.
    """

    _no_split_modules = ["ResBlock", "SpaceTimeTransformer"]  # type: ignore[assignment]  # noqa: RUF012 (diffusers' name, typed as None)

    def __init__(
        self,
        latent: tuple[int, int, int, int],
        condition_dim: int,
        width: int = 320,
        multipliers: tuple[int, ...] = (1, 2, 4, 4),
        layers: int = 2,
        heads: int = 8,
        temporal_length: int = 16,
    ) -> None:
        def mixer(channels: int, level: int) -> nn.Module:
            return SpaceTimeTransformer(channels, condition_dim, heads, temporal_length)

        check_positive(temporal_length=temporal_length)
        coarsest = len(multipliers) - 1
        super().__init__(latent[0], width, multipliers, layers, heads, lambda level: level != coarsest, mixer)
        self.condition_dim = condition_dim

    def forward(self, latent: Tensor, timestep: Tensor, condition: Condition | None) -> Tensor:
        batch, _, frames, _, _ = latent.shape
        text = None
        if condition is not None and self.condition_dim:
            # Every frame projects a copy of the text, as for the authors: the paper's count has it 16 times.
            text = condition.sequence().to(latent.dtype).repeat_interleave(frames, dim=0)
        x = self.stem(latent.transpose(1, 2).flatten(0, 1))
        (x,) = self.transform([x], self.timestep(timestep, latent.dtype), frames, text)
        return x.unflatten(0, (batch, frames)).transpose(1, 2)


class SpaceTimeTransformer(nn.Module):
    """A transformer block over the points of all frames, with a residual around it; starts as the identity."""

    def __init__(self, width: int, text_dim: int, heads: int, temporal_length: int) -> None:
        super().__init__()
        self.norm = group_norm(width)
        self.stem = nn.Conv2d(width, width, 1)
        self.norm_space = nn.LayerNorm(width)
        self.space = Attention(width, heads, width // heads)
        self.norm_time = nn.LayerNorm(width)
        self.time = TimeAttention(width, heads, temporal_length)
        if text_dim:
            self.norm_text = nn.LayerNorm(width)
            self.text = TextAttention(width, text_dim, heads)
        self.norm_time_again = nn.LayerNorm(width)
        self.time_again = TimeAttention(width, heads, temporal_length)
        self.norm_feed_forward = nn.LayerNorm(width)
        self.feed_forward = GEGLU(width)
        self.head = zero(nn.Conv2d(width, width, 1))

    def forward(self, maps: list[Tensor], frames: int, text: Tensor | None) -> list[Tensor]:
        """One map `(B * frames, width, H, W)`, `text` `(B * frames, L, text_dim)`, to the map's shape."""
        (map,) = maps
        x = self.stem(self.norm(map)).flatten(2).mT  # (B * T, N, width)
        x = x + self.space(self.norm_space(x))
        x = x + self.time(self.norm_time(x), frames)
        if text is not None:
            x = x + self.text(self.norm_text(x), text)
        x = x + self.time_again(self.norm_time_again(x), frames)
        x = x + self.feed_forward(self.norm_feed_forward(x))
        return [map + self.head(x.mT.unflatten(2, map.shape[2:]))]


class TextAttention(nn.Module):
    """Multi-head attention from tokens of a video to those of its text."""

    def __init__(self, width: int, text_dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(width, width, bias=False)
        self.kv = nn.Linear(text_dim, 2 * width, bias=False)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, text: Tensor) -> Tensor:
        """`x` `(B, N, width)` and `text` `(B, L, text_dim)` to the shape of `x`."""
        q = self.q(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        k, v = self.kv(text).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)  # (B, heads, L, head_dim)
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class TimeAttention(AttentionLayer):
    """Attention over the frames at each point, with relative positions for keys and values (Shaw et al. 2018).

    A frame t scores a frame s by q_t · (k_s + a_{s-t}) and takes v_s + b_{s-t} of it, with vectors a and b that all
    heads share. The weights are smaller than the queries while there are fewer frames than channels a head, so that a
    fused operation, which knows no b, would save no memory. Frames more than `length` apart share a position.
    """

    def __init__(self, width: int, heads: int, length: int) -> None:
        super().__init__(width, heads, width // heads)
        self.length = length
        self.key_positions = nn.Parameter(0.02 * torch.randn(2 * length + 1, width // heads))
        self.value_positions = nn.Parameter(0.02 * torch.randn(2 * length + 1, width // heads))

    def forward(self, x: Tensor, frames: int) -> Tensor:
        """`x` `(B * frames, N, width)` to the same shape."""
        qkv = self.qkv(x).unflatten(-1, (3, self.heads, -1)).unflatten(0, (-1, frames))
        q, k, v = qkv.unbind(-3)  # (B, T, N, heads, head_dim)
        q = q * q.shape[-1] ** -0.5
        frame = torch.arange(frames, device=x.device)
        distance = (frame - frame[:, None]).clamp(-self.length, self.length) + self.length
        keys, values = self.key_positions[distance], self.value_positions[distance]  # (T, T, head_dim)
        scores = torch.einsum("btnhc,bsnhc->bnhts", q, k) + torch.einsum("btnhc,tsc->bnhts", q, keys)
        weights = scores.softmax(dim=-1).to(v.dtype)
        out = torch.einsum("bnhts,bsnhc->btnhc", weights, v) + torch.einsum("bnhts,tsc->btnhc", weights, values)
        return self.out(out.flatten(3).flatten(0, 1))
