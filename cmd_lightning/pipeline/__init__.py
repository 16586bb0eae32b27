"""`CMDPipeline`: prompt or image in, video out, with the diffusers API; one file for each group of methods."""

from cmd_lightning.pipeline.pipeline import GUIDANCE, STEPS, CMDPipeline

__all__ = ["GUIDANCE", "STEPS", "CMDPipeline"]
