"""What a network must offer to plug into a component.

Axes are `(B, C, T, H, W)` everywhere. A motion latent is `(B, D, T, S)`: D channels for each of the S motion
slots of each of the T frames. Nothing outside an autoencoder knows what a slot is.
"""

from __future__ import annotations

import inspect
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from cmd_lightning.networks.latents import Condition, LatentSpec
from cmd_lightning.networks.network import Network


class AutoencoderNetwork(Network):
    """Splits a clip into content frame and motion latent, and puts them together again.

    The buffers `motion_mean` and `motion_std`, `(D,)` each, are measured while it trains: the motion model works on
    `(motion - mean) / std`, since the noise schedule of diffusion assumes unit variance.

    Attributes:
        granularity: Height and width of the videos must be multiples of it.

    Examples:
        The mean frame as content, and one slot per frame for its difference in brightness:

        >>> import torch
        >>> from cmd_lightning.networks import AutoencoderNetwork, LatentSpec
        >>> class Brightness(AutoencoderNetwork):
        ...     def __init__(self) -> None:
        ...         super().__init__(motion_channels=1)
        ...
        ...     def encode(self, video):
        ...         content = video.mean(2)
        ...         return content, (video - content[:, :, None]).mean((1, 3, 4))[:, None, :, None]
        ...
        ...     def decode(self, content, motion):
        ...         return content[:, :, None] + motion.unsqueeze(-1)
        ...
        ...     def latent_spec(self, video_shape):
        ...         channels, frames, height, width = video_shape
        ...         return LatentSpec((channels, height, width), (1, frames, 1), slots=((3.0,),))
        >>> video = torch.linspace(-1, 1, 4).view(1, 1, 4, 1, 1).expand(2, 3, 4, 8, 8)
        >>> content, motion = Brightness().encode(video)
        >>> content.shape, motion.shape, torch.allclose(Brightness().decode(content, motion), video, atol=1e-6)
        (torch.Size([2, 3, 8, 8]), torch.Size([2, 1, 4, 1]), True)
    """

    granularity: int = 1
    entry_points = ("encode", "encode_content", "decode", "normalize_motion", "denormalize_motion")
    motion_mean: Tensor
    motion_std: Tensor

    def __init__(self, motion_channels: int) -> None:
        super().__init__()
        self.register_buffer("motion_mean", torch.zeros(motion_channels))
        self.register_buffer("motion_std", torch.ones(motion_channels))

    @abstractmethod
    def encode(self, video: Tensor) -> tuple[Tensor, Tensor]:
        """`(B, C, T, H, W)` to content frame `(B, C, H, W)` and motion latent `(B, D, T, S)`."""

    @property
    def content_source(self) -> str | None:
        """The name of a content frame that depends on no weights, such as "first frame"; None if it depends on weights.

        A content model trained on such frames fits every autoencoder with the same source.
        """
        return None

    def content_reach(self, frames: int) -> int:
        """How many of the first frames of a video of `frames` frames decide its content frame; by default all."""
        return frames

    def encode_content(self, video: Tensor) -> Tensor:
        """The content frame of `encode`; some networks compute it alone at lower cost."""
        return self.encode(video)[0]

    @abstractmethod
    def decode(self, content: Tensor, motion: Tensor) -> Tensor:
        """Content frame and motion latent to the video `(B, C, T, H, W)`."""

    @abstractmethod
    def latent_spec(self, video_shape: tuple[int, int, int, int]) -> LatentSpec:
        """The latent shapes of a video of shape `(C, T, H, W)`.

        Raises:
            InputError: The network cannot take that size.
        """

    def forward(self, video: Tensor) -> Tensor:
        """The reconstruction of `video`."""
        return self.decode(*self.encode(video))

    @torch.no_grad()
    def measure_motion(self, motion: Tensor, momentum: float) -> None:
        """Moves the stored mean and variance towards those of all processes' `motion` by `1 - momentum`, if finite."""
        mean, variance = mean_and_variance(motion.detach().float(), dim=(0, 2, 3))
        # Clips differ in their means: what lies between the batches belongs to the variance too.
        between = momentum * (1 - momentum) * (mean - self.motion_mean).square()
        variance = momentum * self.motion_std.square() + (1 - momentum) * variance + between
        mean = torch.lerp(self.motion_mean, mean.to(self.motion_mean), 1 - momentum)
        finite = (mean.isfinite() & variance.isfinite()).all()
        self.motion_mean.copy_(torch.where(finite, mean, self.motion_mean))
        self.motion_std.copy_(torch.where(finite, variance.sqrt().clamp_min(1e-4), self.motion_std))

    def normalize_motion(self, motion: Tensor) -> Tensor:
        """A motion latent as the motion model sees it: about zero mean and unit variance a channel."""
        return (motion - self.motion_mean.view(-1, 1, 1)) / self.motion_std.view(-1, 1, 1)

    def denormalize_motion(self, motion: Tensor) -> Tensor:
        """Undoes `normalize_motion`."""
        return motion * self.motion_std.view(-1, 1, 1) + self.motion_mean.view(-1, 1, 1)


def mean_and_variance(values: Tensor, dim: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Mean and variance (without correction) over `dim`, of the values of all processes where there are several.

    All processes have to call it; they may hold different numbers of values.
    """
    variance, mean = torch.var_mean(values, dim=tuple(dim), correction=0)
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return mean, variance
    count = torch.full_like(mean, values.numel() / mean.numel())
    own = torch.stack([count, mean, variance])
    parts = [torch.empty_like(own) for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather(parts, own)
    count, mean, variance = torch.stack(parts, dim=1)  # (processes, ...) each
    share = count / count.sum(dim=0)
    whole = (share * mean).sum(dim=0)
    return whole, (share * (variance + (mean - whole).square())).sum(dim=0)


class Denoiser(Network):
    """A network that is called with a noisy sample `(B, ...)`, a timestep, and more."""

    def __call__(self, *inputs: Any, **named: Any) -> Any:
        """As `Network`; the timestep may also be one for all samples: a number, `()` or `(1,)`."""
        noisy = inputs[0] if inputs else named[next(iter(inspect.signature(self.forward).parameters))]
        if len(inputs) > 1:
            inputs = (inputs[0], for_each(inputs[1], noisy), *inputs[2:])
        elif "timestep" in named:
            named["timestep"] = for_each(named["timestep"], noisy)
        return super().__call__(*inputs, **named)


def for_each(timestep: Tensor | float, noisy: Tensor) -> Tensor:
    """A timestep `(B,)` for each of the samples, on their device; one that is so already stays as it is."""
    if isinstance(timestep, Tensor) and timestep.shape == noisy.shape[:1]:
        return timestep
    return torch.as_tensor(timestep, device=noisy.device).expand(len(noisy))


class ContentModel(Denoiser):
    """Predicts what its objective asks for (the noise, by default) of a noisy content frame.

    Examples:
        >>> import torch
        >>> from cmd_lightning.networks import ContentModel
        >>> class Convolution(ContentModel):
        ...     def __init__(self, channels: int = 3) -> None:
        ...         super().__init__()
        ...         self.layer = torch.nn.Conv2d(channels, channels, 3, padding=1)
        ...
        ...     def forward(self, content, timestep, condition):
        ...         return self.layer(content)
        >>> Convolution()(torch.rand(2, 3, 8, 8), 999, None).shape
        torch.Size([2, 3, 8, 8])
    """

    @abstractmethod
    def forward(self, content: Tensor, timestep: Tensor, condition: Condition | None) -> Tensor:
        """`content` `(B, C, H, W)` and `timestep` `(B,)` to the shape of `content`."""


class MotionModel(Denoiser):
    """Predicts what its objective asks for (the noise, by default) of a noisy motion latent.

    Built as `factory(latent_spec, condition_dim)`: the constructor of a subclass takes the shapes of content frame and
    motion latent, and the channels K of the pooled condition (0 for an unconditional model), then its own arguments,
    all with defaults. Its output starts at zero.

    Examples:
        >>> import torch
        >>> from cmd_lightning.networks import LatentSpec, MotionModel
        >>> class MeanColour(MotionModel):
        ...     def __init__(self, latent_spec: LatentSpec, condition_dim: int) -> None:
        ...         super().__init__()
        ...         self.layer = torch.nn.Linear(latent_spec.content[0], latent_spec.motion[0])
        ...         torch.nn.init.zeros_(self.layer.weight), torch.nn.init.zeros_(self.layer.bias)
        ...
        ...     def prepare(self, content):
        ...         return content.mean((2, 3))
        ...
        ...     def forward(self, motion, timestep, context, condition):
        ...         return self.layer(context)[:, :, None, None].expand_as(motion)
        >>> spec = LatentSpec(content=(3, 8, 8), motion=(4, 16, 2), slots=((0.0, 0.5), (1.0, 0.5)))
        >>> model = MeanColour(spec, condition_dim=0)
        >>> context = model.prepare(torch.rand(2, 3, 8, 8))  # once per video, not in each step
        >>> model(torch.rand(2, *spec.motion), 999, context, None).shape
        torch.Size([2, 4, 16, 2])
    """

    entry_points = ("prepare",)

    def prepare(self, content: Tensor) -> Any:
        """What `forward` needs of the clean content frame `(B, C, H, W)`; by default the frame itself.

        It is the same in all denoising steps, so sampling calls this once for all of them.
        """
        return content

    @abstractmethod
    def forward(self, motion: Tensor, timestep: Tensor, context: Any, condition: Condition | None) -> Tensor:
        """The prediction, in the shape of `motion`.

        Args:
            motion: Noisy motion latent, `(B, D, T, S)`.
            timestep: `(B,)`.
            context: What `prepare` returned; never the content frame where `prepare` returns something else.
            condition: None for an unconditional model.
        """

    def predict(self, motion: Tensor, timestep: Tensor, content: Tensor, condition: Condition | None) -> Tensor:
        """The prediction from the content frame `(B, C, H, W)` itself, as in training: `prepare`, then `forward`."""
        return self(motion, timestep, self.prepare(content), condition)


class VideoDenoiser(Denoiser):
    """Predicts what its objective asks for (the noise, by default) of a noisy video: a baseline, all in one model.

    Built as `factory(latent, condition_dim)`: `latent` is the shape `(C, T, H, W)` of a video in its latent space, or,
    for models of the planes of an autoencoder, its `LatentSpec`. Its own arguments follow, all with defaults. Its
    output starts at zero, unless the architecture is third-party.

    Examples:
        >>> import torch
        >>> from cmd_lightning.networks import VideoDenoiser
        >>> class Convolution(VideoDenoiser):
        ...     def __init__(self, latent: tuple[int, int, int, int], condition_dim: int) -> None:
        ...         super().__init__()
        ...         self.layer = torch.nn.Conv3d(latent[0], latent[0], 3, padding=1)
        ...
        ...     def forward(self, latent, timestep, condition):
        ...         return self.layer(latent)
        >>> Convolution((3, 4, 8, 8), 0)(torch.rand(2, 3, 4, 8, 8), 999, None).shape
        torch.Size([2, 3, 4, 8, 8])
    """

    @abstractmethod
    def forward(self, latent: Tensor, timestep: Tensor, condition: Condition | None) -> Tensor:
        """`latent` `(B, C, T, H, W)`, or planes `(B, C, N)`, and `timestep` `(B,)` to the shape of `latent`."""
