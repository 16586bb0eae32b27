"""The space that the autoencoder works in: pixels, or latents of an image autoencoder, behind one encode and decode."""

from __future__ import annotations

import functools
from abc import abstractmethod
from collections.abc import Callable
from typing import Any, Literal

import torch
from diffusers.configuration_utils import ConfigMixin
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from cmd_lightning import compat
from cmd_lightning.errors import InputError
from cmd_lightning.networks.classes import build
from cmd_lightning.networks.network import Recorded
from cmd_lightning.provenance import fingerprint
from cmd_lightning.stable_diffusion import StableDiffusion

Noise = Callable[[tuple[int, ...]], Tensor]
"""From the shape of one sample to standard normal values `(B, *shape)`."""

PROBE = 64
"""Side in pixels of the grey image that an image autoencoder is tested with; it must be a multiple of its factor."""


class LatentSpace(Recorded, ConfigMixin):
    """The space of the autoencoder's inputs. It is frozen: not trained, not averaged and not in checkpoints.

    Attributes:
        vae: The image autoencoder; None for pixels.
    """

    vae: Any = None

    @property
    def factor(self) -> int:
        """Pixels on the side of a latent point."""
        return 1

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """A hash of the weights, which differs between spaces."""

    def open(self) -> None:
        """Reads the weights, if there are any and they have not been read yet."""

    @abstractmethod
    def moments(self, video: Tensor) -> Tensor:
        """The encoding of each frame of a video `(B, 3, T, H, W)` in [-1, 1] before sampling, `(B, M, T, h, w)`.

        For a posterior these are its mean and log-variance, concatenated.
        """

    @abstractmethod
    def latent(self, moments: Tensor, noise: Noise | None = None) -> Tensor:
        """The latent `(B, C, T, h, w)` of `moments`: with `noise`, a sample of the posterior; without, its mean."""

    def encode(self, video: Tensor, noise: Noise | None = None) -> Tensor:
        """A video `(B, 3, T, H, W)` in [-1, 1] to its latent `(B, C, T, h, w)`."""
        return self.latent(self.moments(video), noise)

    @abstractmethod
    def decode(self, latent: Tensor) -> Tensor:
        """A latent back to a video in [-1, 1]."""


class Pixels(LatentSpace):
    """Frames as they are."""

    fingerprint = "pixels"

    def __init__(self) -> None:
        super().__init__()

    def moments(self, video: Tensor) -> Tensor:
        return video

    def latent(self, moments: Tensor, noise: Noise | None = None) -> Tensor:
        return moments

    def decode(self, latent: Tensor) -> Tensor:
        return latent.clamp(-1, 1)


class FrameLatents(LatentSpace):
    """The latents of an image autoencoder, frame by frame (paper section 4.1): Stable Diffusion's VAE or any other.

    Latents are shifted and scaled as the autoencoder's config says (`shift_factor`, `scaling_factor`).

    Args:
        vae: Folder or hub id of a Stable Diffusion model, whose `vae` is used, or of an image autoencoder of diffusers
            (`AutoencoderKL`, `AutoencoderTiny`, ...); or a module with `encode` and `decode` of images
            `(N, 3, H, W)` in [-1, 1], in YAML by class_path and init_args.
        variant: Variant of the weights, such as "fp16".
        revision: Branch, tag or commit of a hub id.
        posterior: Whether training uses a sample of the VAE's posterior, as the authors do, or its mean. Everything
            else uses the mean.
        chunk_size: Frames to encode or decode at a time; fewer need less memory.
    """

    def __init__(
        self,
        vae: str | ModelMixin | dict[str, Any],
        variant: str | None = None,
        revision: str | None = None,
        posterior: Literal["sample", "mean"] = "sample",
        chunk_size: int = 4,
    ) -> None:
        super().__init__()
        if chunk_size < 1:
            raise InputError(f"latent_space.chunk_size {chunk_size}: give at least 1 frame")
        if isinstance(vae, nn.Module) and not (isinstance(vae, ModelMixin) and isinstance(vae, ConfigMixin)):
            raise InputError(
                f"latent_space.vae: {type(vae).__name__} does not record how it was built, so no checkpoint could name "
                "it; derive it from diffusers' ModelMixin and ConfigMixin"
            )
        option = "latent_space.vae"
        self._source = StableDiffusion(vae, variant, revision, option=option) if isinstance(vae, str) else None
        self.vae: Any = None if self._source else build(vae) if isinstance(vae, dict) else vae
        self._given = isinstance(vae, nn.Module)
        self.posterior, self.chunk_size = posterior, chunk_size
        self._factor = 0  # not opened yet
        self._posterior = False

    def open(self) -> None:
        if self._factor:
            return
        if self._source is not None and self.vae is None:
            self.vae = self._source.vae()
        if not self._given:  # else it is the caller's, and is left unchanged
            self.vae.requires_grad_(False).eval()
        weights = dict(self.vae.named_parameters())
        like = next(iter(weights.values()), torch.zeros(()))
        with torch.no_grad():
            probe = torch.zeros(1, 3, PROBE, PROBE, dtype=self._computes_in(like), device=self._device)
            out = self.vae.encode(probe)
        self._posterior = hasattr(out, "latent_dist")
        self._scale = getattr(self.vae.config, "scaling_factor", None) or 1.0
        self._shift = getattr(self.vae.config, "shift_factor", None) or 0.0
        self._factor = PROBE // _tensor(out).shape[-1]

    @functools.cached_property
    def factor(self) -> int:
        self.open()
        return self._factor

    @functools.cached_property
    def fingerprint(self) -> str:
        self.open()
        return fingerprint(self.vae.state_dict(), f"scale {self._scale}, shift {self._shift}")

    @torch.no_grad()
    def moments(self, video: Tensor) -> Tensor:
        self.open()
        height, width = video.shape[3:]
        if height % self.factor or width % self.factor:
            raise InputError(
                f"videos of {height}x{width} pixels: height and width must be multiples of {self.factor}, the pixels "
                "on the side of a latent point; choose another size"
            )
        return self._by_frame(lambda frames: _tensor(self.vae.encode(frames)), video)

    def latent(self, moments: Tensor, noise: Noise | None = None) -> Tensor:
        self.open()
        latent = moments
        if self._posterior:
            latent, log_variance = moments.chunk(2, dim=1)
            if noise is not None and self.posterior == "sample":
                deviation = (log_variance.clamp(-30, 20) / 2).exp()  # the bounds are those of every implementation
                latent = latent + deviation * noise(tuple(latent.shape[1:])).to(latent)
        return (latent - self._shift) * self._scale

    @torch.no_grad()
    def decode(self, latent: Tensor) -> Tensor:
        self.open()
        return self._by_frame(self._decoded, latent / self._scale + self._shift).clamp(-1, 1)

    def _decoded(self, latents: Tensor) -> Tensor:
        out = self.vae.decode(latents)
        return out if isinstance(out, Tensor) else out.sample

    @property
    def _device(self) -> torch.device:
        """Where the VAE computes."""
        return compat.execution_device(self.vae)

    def _computes_in(self, like: Tensor) -> torch.dtype:
        """The type that the VAE computes in: not that of its weights where layerwise casting stores them in another."""
        return getattr(self.vae, "dtype", None) or like.dtype

    def _by_frame(self, function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        like = next(self.vae.parameters(), x)
        frames = x.transpose(1, 2).flatten(0, 1).to(self._device, self._computes_in(like))  # (B * T, C, H, W)
        done = torch.cat([function(chunk) for chunk in frames.split(self.chunk_size)]).to(x)
        return done.unflatten(0, (len(x), -1)).transpose(1, 2)


def _tensor(encoded: Any) -> Tensor:
    """The result of an image autoencoder's `encode`: the parameters of a posterior, or latents."""
    if isinstance(encoded, Tensor):
        return encoded
    return encoded.latent_dist.parameters if hasattr(encoded, "latent_dist") else encoded.latents


def content_row(space: LatentSpace, content: Tensor, channels: int) -> dict[str, Tensor]:
    """The content frames `(B, C, H, W)` as a row of a preview; {} if they do not have the channels of a video."""
    return {"content frame": space.decode(content[:, :, None])} if content.shape[1] == channels else {}


def to_uint8(video: Tensor) -> Tensor:
    """Values in [-1, 1] to the nearest of 0 to 255."""
    return ((video.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def from_uint8(video: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Values 0 to 255 to [-1, 1]."""
    return video.to(dtype) / 127.5 - 1


def shape_text(shape: tuple[int, ...], factor: int = 1) -> str:
    """A video shape in words: channels, frames, height x width; `factor` pixels on the side of a latent point."""
    channels, frames, height, width = shape
    of_what = f"{channels} channels" if factor == 1 else f"{channels} latent channels"
    return f"{of_what}, {frames} frames, {height * factor}x{width * factor}"
