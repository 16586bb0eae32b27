"""A small U-Net for content frames, for training from scratch on a small budget."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from cmd_lightning.networks import Condition, ContentModel, LatentSpec
from cmd_lightning.networks.dit import pad_to_multiple
from cmd_lightning.networks.embeddings import coordinates_embedding, embedded, grid_coordinates
from cmd_lightning.networks.mixing import PointAttention
from cmd_lightning.networks.unet import UNet, velocity_of


class ContentUNet(UNet, ContentModel):
    """U-Net over the content frame, with the pooled condition in adaptive group norms; not in the paper.

    Stable Diffusion's U-Net gets its text by attention alone, which takes long to learn from scratch. Here timestep and
    pooled condition scale and shift every block (Dhariwal and Nichol, arXiv 2105.05233), and attention to the tokens
    is an option. Groups of the norms have at least four channels.

    Args:
        latent_spec: Shapes of content frame and motion latent.
        condition_dim: Channels K of the condition; 0 for an unconditional model.
        width: Channels of the first level; even.
        multipliers: Channels of each level over `width`; each level halves the resolution of the one before.
        layers: Residual blocks per level of the encoder; the decoder has one more.
        heads: Attention heads; must divide the channels of the levels that attend.
        attention_from_level: The first level where points attend to each other; earlier ones only convolve.
        patch_size: Side of the square pixel patches that are the points of the first level.
        tokens: Whether points attend to the tokens of the condition too.
        clean: Whether the layers predict the clean content frame, from which the velocity of `FlowMatching` follows
            (see `velocity_of`); for that objective only.
    """

    _repeated_blocks = ["ResBlock", "PointAttention"]  # noqa: RUF012 (diffusers' own spelling)
    _no_split_modules = ["ResBlock", "PointAttention"]  # type: ignore[assignment]  # noqa: RUF012 (diffusers' name, typed as None)

    def __init__(
        self,
        latent_spec: LatentSpec,
        condition_dim: int,
        width: int = 192,
        multipliers: tuple[int, ...] = (1, 2, 3),
        layers: int = 2,
        heads: int = 8,
        attention_from_level: int = 1,
        patch_size: int = 2,
        tokens: bool = False,
        clean: bool = False,
    ) -> None:
        def attends(level: int) -> bool:
            return level >= attention_from_level

        def mixer(channels: int, level: int) -> PointAttention:
            return PointAttention(channels, heads, condition_dim if tokens else 0)

        channels = latent_spec.content[0] * patch_size**2
        super().__init__(channels, width, multipliers, layers, heads, attends, mixer, adaptive=True)
        self.width, self.patch_size, self.tokens = width, patch_size, tokens and condition_dim > 0
        self.clean = clean
        self.condition = nn.Linear(condition_dim, 4 * width) if condition_dim else None

    def forward(self, content: Tensor, timestep: Tensor, condition: Condition | None) -> Tensor:
        height, width = content.shape[2:]
        signal = embedded(self.timestep, self.condition, timestep, condition, content.dtype)
        context: tuple[Tensor | None, ...] = ()
        if self.tokens and condition is not None:
            tokens, mask = condition.tokens, condition.mask
            context = (condition.pooled[:, None], None) if tokens is None else (tokens, mask)
        padded = pad_to_multiple(content, self.patch_size, self.patch_size)
        x = self.stem(F.pixel_unshuffle(padded, self.patch_size))
        places = coordinates_embedding(grid_coordinates(*x.shape[2:], device=x.device), self.width).to(x.dtype)
        (x,) = self.transform([x + places.mT.unflatten(1, x.shape[2:])], signal, *context)
        said = F.pixel_shuffle(x, self.patch_size)[:, :, :height, :width]
        return velocity_of(content, said, timestep) if self.clean else said
