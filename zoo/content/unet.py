"""The content model of the text-to-video set-up: diffusers' stock `UNet2DConditionModel`, at any size."""

from __future__ import annotations

from collections.abc import Sequence

from diffusers import UNet2DConditionModel
from jsonargparse import class_from_function

from cmd_lightning.errors import InputError
from cmd_lightning.networks import LatentSpec


@class_from_function  # jsonargparse fills the places of a factory by class only; what it makes is the stock class
def unet(
    latent_spec: LatentSpec,
    condition_dim: int,
    block_out_channels: tuple[int, ...] = (320, 640, 1280, 1280),
    layers_per_block: int = 2,
    attention_head_dim: int | list[int] = 8,
    attention_from_level: int = 0,
    upcast_attention: bool = False,
    use_linear_projection: bool = False,
) -> UNet2DConditionModel:
    """Stable Diffusion's U-Net for a content frame; the defaults are those of Stable Diffusion 1.5.

    Stable Diffusion 2.1's has `attention_head_dim: [5, 10, 20, 20]`, `use_linear_projection: true` and 1024 channels
    of the condition where 1.5 has 768.

    Args:
        latent_spec: Shapes of content frame and motion latent.
        condition_dim: Channels K of the condition's tokens; 0 for an unconditional model.
        block_out_channels: Channels of each level; each level halves the resolution of the one before.
        layers_per_block: Residual blocks a level.
        attention_head_dim: Number of attention heads (diffusers' name for it), one for all levels or one for each.
        upcast_attention: Whether attention is computed in float32 under half precision, as in Stable Diffusion 2.1.
        attention_from_level: The first level that attends; earlier ones only convolve. The last level never does.
        use_linear_projection: Whether the ways into and out of an attention block are linear layers, not 1 × 1
            convolutions: the same arithmetic, with weights of another shape.

    Raises:
        InputError: The numbers of heads do not fit the levels.
    """
    channels, height, width = latent_spec.content
    levels = len(block_out_channels)
    if not isinstance(attention_head_dim, int) and len(attention_head_dim) != levels:
        raise InputError(
            f"attention_head_dim {list(attention_head_dim)}: block_out_channels has {levels} levels; give one number, "
            f"or {levels}"
        )
    attends = [attention_from_level <= level < levels - 1 for level in range(levels)]
    return UNet2DConditionModel(
        sample_size=(height, width),
        in_channels=channels,
        out_channels=channels,
        block_out_channels=tuple(block_out_channels),
        layers_per_block=layers_per_block,
        down_block_types=tuple("CrossAttnDownBlock2D" if a else "DownBlock2D" for a in attends),
        up_block_types=tuple("CrossAttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attends)),
        attention_head_dim=attention_head_dim if isinstance(attention_head_dim, int) else tuple(attention_head_dim),
        upcast_attention=upcast_attention,
        cross_attention_dim=condition_dim or 8,  # without a condition it attends to one zero token
        norm_num_groups=norm_groups(block_out_channels),
        use_linear_projection=use_linear_projection,
    )


def norm_groups(channels: Sequence[int]) -> int:
    """Groups of the normalisation: 32, as Stable Diffusion has, or as many as leave each 4 channels at every level.

    A group of one channel would lose what the timestep adds to it, which is the same at every place.
    """
    return max((n for n in range(1, 33) if all(own % n == 0 and own >= 4 * n for own in channels)), default=1)
