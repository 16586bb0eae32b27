"""A U-Net over one or more feature maps: convolutions see one map, mixing blocks see all of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cmd_lightning.errors import InputError, check_positive
from cmd_lightning.networks.embeddings import TimestepEmbedding
from cmd_lightning.networks.network import Network


class ResBlock(nn.Module):
    """Two 3 × 3 convolutions with a signal added between them, and a residual; the second starts at zero.

    An adaptive block scales and shifts the second norm by the signal instead (adaptive group norm, Dhariwal and Nichol,
    arXiv 2105.05233).
    """

    def __init__(self, inputs: int, outputs: int, signal: int, adaptive: bool = False) -> None:
        super().__init__()
        self.adaptive = adaptive
        self.norm1 = group_norm(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.signal = nn.Linear(signal, 2 * outputs if adaptive else outputs)
        self.norm2 = group_norm(outputs)
        self.conv2 = zero(nn.Conv2d(outputs, outputs, 3, padding=1))
        self.skip = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor, signal: Tensor) -> Tensor:
        """`x` `(B * n, inputs, H, W)`, `signal` `(B, signal)`, shared by n maps, to `(B * n, outputs, H, W)`."""
        told = self.signal(F.silu(signal)).repeat_interleave(len(x) // len(signal), dim=0)[:, :, None, None]
        hidden = self.conv1(F.silu(self.norm1(x)))
        if self.adaptive:
            scale, shift = told.chunk(2, dim=1)
            hidden = self.norm2(hidden) * (1 + scale) + shift
        else:
            hidden = self.norm2(hidden + told)
        return self.skip(x) + self.conv2(F.silu(hidden))


class Level(nn.Module):
    """The blocks of a resolution, a mixing block after each of them or after none, and the way to the next one."""

    def __init__(self, blocks: Sequence[ResBlock], mixers: Sequence[nn.Module], resample: nn.Conv2d | None) -> None:
        super().__init__()
        self.blocks, self.mixers = nn.ModuleList(blocks), nn.ModuleList(mixers)
        self.resample = resample


class UNet(Network):
    """The body of a U-Net (after Stable Diffusion's); its output starts at zero.

    It works on a list of maps of any sizes that share its weights.

    Args:
        channels: Channels of the maps, in and out.
        width: Channels of the first level.
        multipliers: Channels of each level over `width`; each level halves the resolution of the one before.
        layers: Residual blocks per level of the encoder; the decoder has one more.
        heads: Attention heads of the mixing blocks.
        attends: Whether a level has mixing blocks, from its number; in the middle, after the last level, the number is
            that of levels.
        mixer: Builds a mixing block from its channels and level. The block gets a list of images and the context,
            returns such a list, and should start as the identity.
        adaptive: Whether the signal scales and shifts norms (see `ResBlock`).

    Raises:
        InputError: A size is less than 1, `width` is odd, or `heads` does not divide the channels where it attends.
    """

    _supports_gradient_checkpointing = True
    _no_split_modules = ["ResBlock"]  # type: ignore[assignment]  # noqa: RUF012 (diffusers' name, typed as None)
    down: Any  # a list of Level, whose items torch types as Module
    up: Any

    def __init__(
        self,
        channels: int,
        width: int,
        multipliers: Sequence[int],
        layers: int,
        heads: int,
        attends: Callable[[int], bool],
        mixer: Callable[[int, int], nn.Module],
        adaptive: bool = False,
    ) -> None:
        check_sizes(width, multipliers, layers, heads, attends)
        super().__init__()
        signal = 4 * width

        def block(inputs: int, outputs: int) -> ResBlock:
            return ResBlock(inputs, outputs, signal, adaptive)

        self.timestep = TimestepEmbedding(signal, frequencies=width)
        self.stem = nn.Conv2d(channels, width, 3, padding=1)
        skips = [width]
        last = len(multipliers) - 1
        self.down = nn.ModuleList()
        for level, multiplier in enumerate(multipliers):
            outputs = multiplier * width
            blocks = [block(inputs, outputs) for inputs in [skips[-1], *[outputs] * (layers - 1)]]
            mixers = [mixer(outputs, level) for _ in blocks if attends(level)]
            halve = nn.Conv2d(outputs, outputs, 3, stride=2, padding=1) if level < last else None
            self.down.append(Level(blocks, mixers, halve))
            skips += [outputs] * (layers + (halve is not None))
        current = skips[-1]
        around = [block(current, current) for _ in range(2)]
        self.middle = Level(around, [mixer(current, len(multipliers))] if attends(len(multipliers)) else [], None)
        self.up = nn.ModuleList()
        for level, multiplier in reversed([*enumerate(multipliers)]):
            outputs = multiplier * width
            blocks = []
            for _ in range(layers + 1):
                blocks.append(block(current + skips.pop(), outputs))
                current = outputs
            mixers = [mixer(outputs, level) for _ in blocks if attends(level)]
            double = nn.Conv2d(outputs, outputs, 3, padding=1) if level else None
            self.up.append(Level(blocks, mixers, double))
        self.norm = group_norm(width)
        self.head = zero(nn.Conv2d(width, channels, 3, padding=1))

    def transform(self, maps: list[Tensor], signal: Tensor, *context: Any) -> list[Tensor]:
        """Feature maps `(B * n, width, H, W)` after `stem` to maps `(B * n, channels, H, W)`.

        Args:
            maps: One or more, n for each sample and each of any size.
            signal: `(B, 4 * width)`, from `timestep` and what else all blocks shall know.
            *context: What the mixing blocks get after the maps.
        """
        # In this order of memory CPU convolutions take three quarters of the time, and GPU ones no longer.
        maps = [x.contiguous(memory_format=torch.channels_last) for x in maps]
        skips = [maps]
        for level in self.down:
            for i in range(len(level.blocks)):
                maps = self._block(level, i, maps, signal, context)
                skips.append(maps)
            if level.resample is not None:
                maps = [level.resample(x) for x in maps]
                skips.append(maps)
        for i in range(2):
            maps = self._block(self.middle, i, maps, signal, context)
        for level in self.up:
            for i in range(len(level.blocks)):
                maps = [torch.cat(pair, dim=1) for pair in zip(maps, skips.pop(), strict=True)]
                maps = self._block(level, i, maps, signal, context)
            if level.resample is not None:  # to the size of the level above, which need not be even
                sizes = [skip.shape[2:] for skip in skips[-1]]
                maps = [level.resample(F.interpolate(x, size)) for x, size in zip(maps, sizes, strict=True)]
        return [self.head(F.silu(self.norm(x))) for x in maps]

    def _block(self, level: Level, i: int, maps: list[Tensor], signal: Tensor, context: tuple) -> list[Tensor]:
        maps = [self.run_block(level.blocks[i], x, signal) for x in maps]
        return self.run_block(level.mixers[i], maps, *context) if i < len(level.mixers) else maps


def check_sizes(
    width: int, multipliers: Sequence[int], layers: int, heads: int, attends: Callable[[int], bool]
) -> None:
    """Raise an `InputError` where sizes do not fit each other; arguments and rules as for `UNet`."""
    if not multipliers or min(multipliers) < 1:
        raise InputError(f"multipliers {[*multipliers]}: give one for each level, all at least 1")
    check_positive(width=width, layers=layers, heads=heads)
    if width % 2:
        raise InputError(f"width {width}: the timestep is embedded as sines and cosines in pairs; give an even number")
    levels = [*multipliers, multipliers[-1]]
    channels = sorted({width * multiplier for level, multiplier in enumerate(levels) if attends(level)})
    common = math.gcd(*channels)  # 0 where no level attends, and any number divides it
    if common % heads:
        fitting = ", ".join(str(number) for number in range(1, min(common, 32) + 1) if common % number == 0)
        raise InputError(
            f"heads {heads}: must divide the channels {', '.join(map(str, channels))} of the levels that attend; "
            f"give one of {fitting}"
        )


def group_norm(channels: int) -> nn.GroupNorm:
    """Group norm with 32 groups, or as many fewer as leave four channels in each.

    A group of one channel would take out again what the signal adds to that channel.
    """
    fitting = (groups for groups in (32, 16, 8, 4, 2) if channels % groups == 0 and channels // groups >= 4)
    return nn.GroupNorm(next(fitting, 1), channels)


def zero(layer: nn.Module) -> nn.Module:
    """The layer with its weights set to zero."""
    for weight in layer.parameters():
        nn.init.zeros_(weight)
    return layer


def velocity_of(noisy: Tensor, clean: Tensor, timestep: Tensor) -> Tensor:
    """The velocity of flow matching that follows from a prediction of the clean sample (arXiv 2511.13720).

    A network that predicts clean samples need not pass noise of full rank through its layers, and its squared error of
    the velocity is that of the clean sample over the square of the noise level.

    Args:
        noisy: `(B, ...)`, `(1 - sigma) * clean + sigma * noise`.
        clean: The prediction, in the same shape.
        timestep: `(B,)`, 1000 times sigma; below 0.05, sigma counts as that.
    """
    sigma = (timestep / 1000).clamp_min(0.05).to(noisy.dtype)
    return (noisy - clean) / sigma.view(-1, *[1] * (noisy.ndim - 1))
