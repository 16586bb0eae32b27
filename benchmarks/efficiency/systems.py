"""The parts of a text-to-video system, and how a video is sampled from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from torch import Tensor, nn

from benchmarks.calls import FACTOR, TOKENS, Call, Shape, call_of, image_latents
from cmd_lightning.diffusion import Diffusion
from cmd_lightning.diffusion.sampling import Denoiser, Guided, given_content, sample
from cmd_lightning.errors import InputError
from cmd_lightning.networks import AutoencoderNetwork, Condition, LatentSpec
from cmd_lightning.networks.stock import predict_content

GUIDANCE = 7.5  # which scale does not matter for time

Decoders = Mapping[str, Callable[[], nn.Module]]
"""Factories by name, from a video's latents `(B, C, T, h, w)` to its pixels `(B, 3, T, H, W)`."""


class Decoder(nn.Module):
    """An autoencoder of diffusers without its encoder."""

    def __init__(self, autoencoder: nn.Module) -> None:
        super().__init__()
        autoencoder.encoder = nn.Identity()
        autoencoder.quant_conv = nn.Identity()
        self.autoencoder = autoencoder

    def forward(self, latent: Tensor) -> Tensor:
        """Latents to pixels."""
        return self.autoencoder.decode(latent, return_dict=False)[0]


class FrameByFrame(nn.Module):
    """Decodes the frames of a video one after the other, which takes the least memory."""

    def __init__(self, autoencoder: nn.Module) -> None:
        super().__init__()
        self.decoder = Decoder(autoencoder)

    def forward(self, latent: Tensor) -> Tensor:
        """Latents to pixels."""
        # Copies: a CUDA graph's next run writes where this one did.
        return torch.stack([self.decoder(frame).clone() for frame in latent.unbind(2)], dim=2)


def vae(divisor: int = 1) -> AutoencoderKL:
    """Stable Diffusion's autoencoder, with channels divided by `divisor`."""
    channels = tuple(number // divisor for number in (128, 256, 512, 512))
    kinds = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
    return AutoencoderKL(block_out_channels=channels, layers_per_block=2, **kinds)


def tiny_vae(divisor: int = 1) -> AutoencoderTiny:
    """The tiny autoencoder of Stable Diffusion's latents, with channels divided by `divisor`."""
    channels = (64 // divisor,) * 4
    return AutoencoderTiny(encoder_block_out_channels=channels, decoder_block_out_channels=channels)


def image_decoders(divisor: int = 1) -> Decoders:
    """The decoders of Stable Diffusion's latents, with channels divided by `divisor`."""
    return {"full": lambda: FrameByFrame(vae(divisor)), "tiny": lambda: FrameByFrame(tiny_vae(divisor))}


def in_pixels(video: Shape) -> Shape:
    """No other space than that of a video `(3, T, H, W)`."""
    return video


@dataclass(frozen=True, eq=False)
class System:
    """A text-to-video system, without its text encoder.

    Denoisers are factories `(latent, width)`: "content" and "motion" of a `LatentSpec`, or one "denoiser", of a video's
    latent shape or, if there is an autoencoder between it and a video's latents, of a `LatentSpec`.
    """

    denoisers: Mapping[str, Callable[..., nn.Module]]
    autoencoder: Callable[[], AutoencoderNetwork] | None = None
    width: int = 1024  # of a caption's states
    tokens: int = TOKENS
    frames: int = 16
    space: Callable[[Shape], Shape] = image_latents  # from the shape `(3, T, H, W)` of a video to that of its latents
    decoders: Decoders = field(default_factory=dict)

    def video(self, size: tuple[int, int]) -> Shape:
        """The shape of a video's latents at `size` (H, W) in pixels."""
        if any(side % FACTOR for side in size):
            raise InputError(f"--size {size[0]}x{size[1]}: give multiples of {FACTOR}, e.g. 512x1024")
        try:
            return self.space((3, self.frames, *size))
        except InputError as error:  # as LTX-Video's latents say of sides that are no multiples of 32
            raise InputError(f"--size {size[0]}x{size[1]}: {error}") from error


class Decode(nn.Module):
    """An autoencoder's decoder, from what denoisers make to a video's latents."""

    def __init__(self, autoencoder: AutoencoderNetwork, spec: LatentSpec) -> None:
        super().__init__()
        self.autoencoder, self.spec = autoencoder, spec

    def forward(self, *made: Tensor) -> Tensor:
        """Content frame and motion latent, or both as planes `(B, C, N)`, to the latents `(B, C, T, H, W)`."""
        content, motion = made if len(made) == 2 else self.spec.unpack(*made)
        return self.autoencoder.decode(content, self.autoencoder.denormalize_motion(motion))


class Assembled(nn.Module):
    """The networks of a system at a size, on a device; `shapes` are of what each denoiser makes for one video."""

    def __init__(self, system: System, size: tuple[int, int], device: torch.device) -> None:
        super().__init__()
        self.system, self.video, self.decode = system, system.video(size), None
        latent, shapes = self.video, {"denoiser": self.video}
        with device:
            if system.autoencoder is not None:
                autoencoder = system.autoencoder()
                latent = autoencoder.latent_spec(self.video)
                shapes = {"denoiser": latent.packed, "content": latent.content, "motion": latent.motion}
                self.decode = Decode(autoencoder, latent)
            networks = {name: factory(latent, system.width) for name, factory in system.denoisers.items()}
        self.denoisers = nn.ModuleDict(networks)
        self.shapes: dict[str, tuple[int, ...]] = {name: shapes[name] for name in networks}
        self.eval().requires_grad_(False)

    def call(self, name: str) -> Call:
        """The call of a denoiser, or of the autoencoder's decoder, on one video."""
        if name == "autoencoder":
            inputs = tuple(torch.empty(1, *shape, device="meta") for shape in self.shapes.values())
            return Call(self.decode, inputs)
        given = [self.shapes["content"]] if name == "motion" else []
        return call_of(name, self.denoisers[name], [self.shapes[name], *given], self.system.width, self.system.tokens)

    def generate(
        self,
        noise: Mapping[str, Tensor],
        captions: tuple[Condition, Condition],
        steps: int,
        guidance: bool,
        on_step: Callable[[str], object] = lambda name: None,
        on_end: Callable[[str], object] = lambda name: None,
    ) -> Tensor:
        """A video's latents `(B, C, T, H, W)` by DDIM, from noise by denoiser and an encoded and a null caption.

        After each step of a denoiser `on_step` is called with its name, after all of them and the autoencoder `on_end`.
        """
        made: dict[str, Tensor] = {}
        for name, network in self.denoisers.items():
            denoise: Denoiser = network
            if name == "motion":
                denoise = given_content(network, made["content"])
            elif name == "content":
                denoise = partial(predict_content, network)
            predict = Guided(denoise, *captions, GUIDANCE if guidance else 1.0)

            def note(*_: object, name: str = name) -> None:
                on_step(name)

            made[name] = sample(predict, Diffusion().scheduler(), noise[name], steps, on_step=note)
            on_end(name)
        if self.decode is None:
            return made["denoiser"]
        video = self.decode(*made.values()).clone()  # a CUDA graph's next run writes where this one did
        on_end("autoencoder")
        return video
