"""What a network must offer to plug into a component, and how it remembers how it was built.

Axes are `(B, C, T, H, W)` everywhere. A motion latent is `(B, D, T, S)`: D channels for each of the S motion
slots of each of the T frames. Nothing outside an autoencoder knows what a slot is.
"""

from __future__ import annotations

import functools
import inspect
import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from cmd_lightning import compat
from cmd_lightning.errors import InputError


@dataclass(frozen=True)
class LatentSpec:
    """The shapes that an autoencoder gives one video; content and motion models are built from it.

    Args:
        content: Shape `(C, H, W)` of the content frame.
        motion: Shape `(D, T, S)` of the motion latent: channels, frames, motion slots per frame.
        slots: One coordinate tuple for each of the S slots; the first coordinate is the kind of the slot, the others
            are positions in [0, 1] of the content frame. Kind 0 is a row, `(0, y)`; 1 a column, `(1, x)`; 2 a cell of a
            grid, `(2, y, x)`; any other kind is about the whole frame, and its positions mean what they will.
    """

    content: tuple[int, int, int]
    motion: tuple[int, int, int]
    slots: tuple[tuple[float, ...], ...]

    def __post_init__(self) -> None:
        if len(self.slots) != self.motion[2]:
            raise InputError(f"LatentSpec: {len(self.slots)} slot coordinates for {self.motion[2]} motion slots")

    def to_dict(self) -> dict[str, Any]:
        """This spec as plain data, for a config file."""
        return asdict(self)

    @classmethod
    def of(cls, value: LatentSpec | dict[str, Any]) -> LatentSpec:
        """A spec from itself or from the plain data of `to_dict`, lists or tuples."""
        if isinstance(value, LatentSpec):
            return value
        slots = tuple(tuple(slot) for slot in value["slots"])
        return cls(tuple(value["content"]), tuple(value["motion"]), slots)

    @property
    def packed(self) -> tuple[int, int]:
        """The shape `(C, H * W + T * S)` of the packed latents of one video."""
        return self.content[0], math.prod(self.content[1:]) + math.prod(self.motion[1:])

    @staticmethod
    def pack(content: Tensor, motion: Tensor) -> Tensor:
        """Content frames `(B, C, H, W)` and motion latents `(B, C, T, S)` as one, `(B, C, H * W + T * S)`."""
        return torch.cat([content.flatten(2), motion.flatten(2)], dim=2)

    def unpack(self, planes: Tensor) -> tuple[Tensor, Tensor]:
        """Undoes `pack`."""
        points = math.prod(self.content[1:])
        content, motion = planes.split([points, planes.shape[2] - points], dim=2)
        return content.unflatten(2, self.content[1:]), motion.unflatten(2, self.motion[1:])


@dataclass(frozen=True)
class Condition:
    """What a sample is generated from, encoded; the null condition has the same shapes.

    Args:
        pooled: `(B, K)`.
        tokens: `(B, L, K)`, or None where there is only a pooled vector.
        mask: `(B, L)` bool, True for real tokens, or None where all are.
    """

    pooled: Tensor
    tokens: Tensor | None = None
    mask: Tensor | None = None

    def map(self, function: Callable[[Tensor], Tensor]) -> Condition:
        """A condition with `function` applied to every tensor that is there."""
        return Condition(**{name: function(x) for name, x in vars(self).items() if x is not None})

    def combine(self, other: Condition, function: Callable[[Tensor, Tensor], Tensor]) -> Condition:
        """A condition with `function(mine, other's)` for every tensor that is there."""
        mine = {name: x for name, x in vars(self).items() if x is not None}
        return Condition(**{name: function(x, getattr(other, name)) for name, x in mine.items()})

    def sequence(self) -> Tensor:
        """The tokens, or the pooled vector as the only one, `(B, L, K)`."""
        return self.pooled[:, None] if self.tokens is None else self.tokens


class Recorded:
    """Records the arguments of its constructor in diffusers' config; comes before `ConfigMixin` among the bases."""

    config_name: Any = "config.json"

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "__init__" in vars(cls):
            cls.__init__ = _recorded(cls.__init__)  # type: ignore[method-assign]  # wrapped for every subclass


class Network(Recorded, ModelMixin, ConfigMixin):
    """A network that records its constructor's arguments, so that checkpoints and folders describe themselves.

    A subclass writes a plain `__init__`; its arguments (plain data, or a `LatentSpec`) land in `self.config` and
    `save_pretrained` / `from_pretrained` work as for any diffusers model. A network that offers gradient
    checkpointing sets `_supports_gradient_checkpointing` and calls `self.run_block(block, ...)`; `_repeated_blocks`
    names the classes of the blocks that are compiled and sharded one by one.
    """

    gradient_checkpointing = False

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """Load as any diffusers model, with all weights in `torch_dtype` and torch's default dtype unchanged."""
        before = torch.get_default_dtype()
        try:
            opened = super().from_pretrained(*args, **kwargs)
        finally:
            torch.set_default_dtype(before)  # diffusers leaves its own there after an error
        dtype = kwargs.get("torch_dtype", kwargs.get("dtype"))
        if isinstance(dtype, torch.dtype) and "quantization_config" not in kwargs:
            nn.Module.to(opened[0] if isinstance(opened, tuple) else opened, dtype)  # tables that are made in float32
        return opened

    def __call__(self, *inputs: Any, return_dict: bool | None = None, **named: Any) -> Any:
        """The output of `forward`.

        With `return_dict` as networks of diffusers give it: in an object with a `sample` for True, in a tuple for
        False.
        """
        sample = super().__call__(*inputs, **named)
        if return_dict is None:
            return sample
        return Transformer2DModelOutput(sample=sample) if return_dict else (sample,)

    def run_block(self, block: nn.Module, *inputs: Any) -> Any:
        """`block(*inputs)`, with its activations recomputed in the backward pass where that is switched on."""
        if self.gradient_checkpointing and self.training and torch.is_grad_enabled():
            return compat.run_checkpointed(self, block, *inputs)
        return block(*inputs)


def _recorded(init: Callable[..., None]) -> Callable[..., None]:
    """`init`, with its arguments written to the config, and a `latent_spec` given as plain data made one."""
    names = list(inspect.signature(init).parameters)[1:]

    def build(self: Recorded, *args: Any, **kwargs: Any) -> None:
        given = dict(zip(names, args, strict=False)) | kwargs
        if "latent_spec" in given:
            given["latent_spec"] = LatentSpec.of(given["latent_spec"])
        init(self, **given)

    recording = register_to_config(functools.wraps(init)(build))

    @functools.wraps(init)
    def wrapper(self: Recorded, *args: Any, **kwargs: Any) -> None:
        (build if compat.is_recorded(self) else recording)(self, *args, **kwargs)

    return wrapper


class AutoencoderNetwork(Network):
    """Splits a clip into content frame and motion latent, and puts them together again.

    The buffers `motion_mean` and `motion_std`, `(D,)` each, are measured while it trains: the motion model works on
    `(motion - mean) / std`, since the noise schedule of diffusion assumes unit variance.

    Attributes:
        granularity: Height and width of the videos must be multiples of it.
    """

    granularity: int = 1
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
    """Predicts what its objective asks for (the noise, by default) of a noisy content frame."""

    @abstractmethod
    def forward(self, content: Tensor, timestep: Tensor, condition: Condition | None) -> Tensor:
        """`content` `(B, C, H, W)` and `timestep` `(B,)` to the shape of `content`."""


class MotionModel(Denoiser):
    """Predicts what its objective asks for (the noise, by default) of a noisy motion latent.

    Built as `factory(latent_spec, condition_dim)`: the constructor of a subclass takes the shapes of content frame and
    motion latent, and the channels K of the pooled condition (0 for an unconditional model), then its own arguments,
    all with defaults. Its output starts at zero.
    """

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
    for models of the planes of an autoencoder, its `LatentSpec`. Arguments of its own follow, all with defaults. Its
    output starts at zero, unless the architecture is someone else's.
    """

    @abstractmethod
    def forward(self, latent: Tensor, timestep: Tensor, condition: Condition | None) -> Tensor:
        """`latent` `(B, C, T, H, W)`, or planes `(B, C, N)`, and `timestep` `(B,)` to the shape of `latent`."""
