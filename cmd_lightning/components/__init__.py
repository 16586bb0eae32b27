"""The LightningModules: three stages that are trained, and the three composed."""

from cmd_lightning.components.autoencoder import VideoAutoencoder
from cmd_lightning.components.cmd import CMD
from cmd_lightning.components.content import ContentDiffusion
from cmd_lightning.components.motion import MotionDiffusion
from cmd_lightning.components.stable_diffusion_content import StableDiffusionContent

__all__ = ["CMD", "ContentDiffusion", "MotionDiffusion", "StableDiffusionContent", "VideoAutoencoder"]
