"""Faster sampling: other solvers, compiled networks, another decoder of frames."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from cmd_lightning.diffusion.solvers import solver
from cmd_lightning.errors import InputError
from cmd_lightning.latent_space import FrameLatents
from cmd_lightning.networks.compiling import compile_network
from cmd_lightning.pipeline.latents import Latents
from cmd_lightning.pipeline.request import SCHEDULERS


class FasterSampling(Latents):
    """The part of `CMDPipeline` that trades compilation, or another part, for speed."""

    unet: Any
    motion_model: Any
    device: torch.device

    def use_solver(self, name: str | Mapping[str, str]) -> None:
        """Replaces the samplers of both stages, for fewer steps: "ddim", "dpm++", "unipc" or "lcm".

        "lcm" is for distilled models and LCM-LoRAs, at a guidance scale of 1. Set any other scheduler of diffusers
        as `scheduler` or `motion_scheduler` with its `from_config`, as in all pipelines.

        Args:
            name: One for both stages, or by stage, as in {"content": "lcm"}; other stages keep theirs.

        Raises:
            InputError: There is no such solver or stage, or it does not fit the model.
        """
        by_stage = dict.fromkeys(SCHEDULERS, name) if isinstance(name, str) else name
        if unknown := set(by_stage) - set(SCHEDULERS):
            raise InputError(f"solver: no stage {sorted(unknown)[0]!r}; the stages are {', '.join(SCHEDULERS)}")
        parts = {SCHEDULERS[stage]: chosen for stage, chosen in by_stage.items()}  # type: ignore[index]  # just checked
        found = {part: getattr(self, part) for part in parts}
        made = {part: solver(parts[part], own) for part, own in found.items() if own is not None}
        for part, scheduler in made.items():
            setattr(self, part, scheduler)

    def use_frame_decoder(self, vae: Any) -> None:
        """Decodes frames with another image autoencoder of the same latents, such as a tiny one; `vae` still encodes.

        Replacing `vae`, as in other pipelines, would also change how given images and clips are encoded.

        Args:
            vae: For example an `AutoencoderTiny` for the model's `vae`; None for `vae` itself.

        Raises:
            InputError: The model works in pixels, or in latents of another shape.
        """
        decoder = None if vae is None else FrameLatents(vae.to(self.device))
        if decoder is not None:
            if self.vae is None:
                raise InputError("frame decoder: this model works in pixels and decodes no frames; leave it out")
            own, theirs = ((space.vae.config.latent_channels, space.factor) for space in (self.latent_space, decoder))
            if own != theirs:
                raise InputError(
                    "frame decoder: it takes latents of {} channels and {} pixels per point, the model has {} and "
                    "{}; give one that was made for the model's vae".format(*theirs, *own)
                )
        self._frame_decoder = decoder

    def compile_networks(self, **options: Any) -> None:
        """Compiles the networks with torch.compile at their first run, and for each new shape; takes minutes.

        The denoisers of both stages are compiled as a whole, so that a GPU replays each step as one CUDA graph; the
        decoders, which run once per video, without graphs. Convolutions use the channels-last layout. Call this last,
        after setting device, dtype, adapters and frame decoder.

        Args:
            **options: Arguments of torch.compile for the denoisers; by default the mode "reduce-overhead" on a GPU.
        """
        graphs = {"mode": "reduce-overhead"} if self.device.type == "cuda" else {}
        decoders = {name: value for name, value in options.items() if name == "backend"}
        for network in (self.unet, self.motion_model):
            if network is not None:
                network.to(memory_format=torch.channels_last)
                network.compile(**graphs | options, dynamic=False)
        compile_network(self.autoencoder, decoders)
        for space in (self.latent_space, self._frame_decoder):
            if space is not None and space.vae is not None:
                space.vae.to(memory_format=torch.channels_last)
                space.vae.decoder.compile(**decoders)
