"""Objectives of the diffusion stages, for any latent and any denoiser."""

from cmd_lightning.diffusion.objectives import Diffusion, FlowMatching, Objective

__all__ = ["Diffusion", "FlowMatching", "Objective"]
