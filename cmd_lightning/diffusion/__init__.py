"""Objectives, guidance and the sampling loop, for any latent and any denoiser."""

from cmd_lightning.diffusion.objectives import Diffusion, FlowMatching, Objective

__all__ = ["Diffusion", "FlowMatching", "Objective"]
