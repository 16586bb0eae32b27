"""The contracts of the parts and the building blocks that the framework owns."""

from cmd_lightning.networks.contracts import (
    AutoencoderNetwork,
    Condition,
    ContentModel,
    LatentSpec,
    MotionModel,
    Network,
    VideoDenoiser,
)

__all__ = ["AutoencoderNetwork", "Condition", "ContentModel", "LatentSpec", "MotionModel", "Network", "VideoDenoiser"]
