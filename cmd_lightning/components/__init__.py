"""The LightningModules: three stages that are trained, the three composed, and models of whole videos."""

from cmd_lightning.components.autoencoder import VideoAutoencoder
from cmd_lightning.components.cmd import CMD
from cmd_lightning.components.content import ContentDiffusion
from cmd_lightning.components.distillation import ContentDistillation, MotionDistillation
from cmd_lightning.components.motion import MotionDiffusion
from cmd_lightning.components.stable_diffusion_content import StableDiffusionContent
from cmd_lightning.components.video_diffusion import VideoDiffusion

__all__ = [
    "CMD",
    "ContentDiffusion",
    "ContentDistillation",
    "MotionDiffusion",
    "MotionDistillation",
    "StableDiffusionContent",
    "VideoAutoencoder",
    "VideoDiffusion",
]
