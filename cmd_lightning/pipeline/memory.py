"""Sampling with less memory: weights stay on the CPU until they are used, frames are split into tiles."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from cmd_lightning.errors import InputError
from cmd_lightning.pipeline.latents import Latents

READS_PARTS = "MultiheadAttention"
"""The class of torch whose `forward` reads the weights of a submodule without calling it."""


class LessMemory(Latents):
    """The part of `CMDPipeline` that trades time for memory; comes before `DiffusionPipeline` among the bases."""

    components: dict[str, Any]
    _exclude_from_cpu_offload: list[str]

    def enable_model_cpu_offload(self, gpu_id: int | None = None, device: torch.device | str | None = None) -> None:
        """As for any diffusers pipeline: each part is on the GPU only while it runs, otherwise on the CPU."""
        self.latent_space.open()  # which runs the VAE once
        super().enable_model_cpu_offload(gpu_id, device)  # type: ignore[misc]  # a base of the pipeline has it

    def enable_sequential_cpu_offload(
        self, gpu_id: int | None = None, device: torch.device | str | None = None
    ) -> None:
        """As for any diffusers pipeline: each layer is on the GPU only while it runs, otherwise on the CPU."""
        from accelerate import cpu_offload

        self.latent_space.open()
        modules = {name: part for name, part in self.components.items() if isinstance(part, nn.Module)}
        apart = {
            name: part
            for name, part in modules.items()
            if any(type(layer).__name__ == READS_PARTS for layer in part.modules())
        }
        self._exclude_from_cpu_offload = list(apart)  # diffusers cannot tell accelerate which layers to load whole
        try:
            super().enable_sequential_cpu_offload(gpu_id, device)  # type: ignore[misc]  # a base of the pipeline has it
        finally:
            del self._exclude_from_cpu_offload
        for part in apart.values():
            on = next(part.parameters()).device
            cpu_offload(part.cpu(), on, offload_buffers=True, preload_module_classes=[READS_PARTS])

    def enable_vae_slicing(self) -> None:
        """Decode one frame at a time."""
        for vae in self._vaes():
            vae.enable_slicing()

    def disable_vae_slicing(self) -> None:
        """Decode several frames at a time again."""
        for vae in self._vaes():
            vae.disable_slicing()

    def enable_vae_tiling(self) -> None:
        """Encode and decode large frames tile by tile."""
        for vae in self._vaes():
            vae.enable_tiling()

    def disable_vae_tiling(self) -> None:
        """Encode and decode frames whole again."""
        for vae in self._vaes():
            vae.disable_tiling()

    def _vaes(self) -> list[Any]:
        """The image autoencoders; `InputError` if the model has none."""
        if self.vae is None:
            raise InputError("vae: this model works in pixels and has none; leave slicing and tiling out")
        return [self.vae, *([] if self._frame_decoder is None else [self._frame_decoder.vae])]

    def to(self, *args: Any, **kwargs: Any) -> Any:
        """As for any diffusers pipeline; moves and casts the frame decoder too."""
        super().to(*args, **kwargs)  # type: ignore[misc]  # a base of the pipeline has it
        if self._frame_decoder is not None:
            kwargs.pop("silence_dtype_warnings", None)
            self._frame_decoder.vae.to(*args, **kwargs)
        return self
