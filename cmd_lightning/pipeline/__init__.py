"""`CMDPipeline`: prompt or image in, video out, with the conventions of diffusers; one file for each of its parts."""

from cmd_lightning.pipeline.pipeline import GUIDANCE, STEPS, CMDPipeline

__all__ = ["GUIDANCE", "STEPS", "CMDPipeline"]
