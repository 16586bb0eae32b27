"""The contracts that networks fulfil, and what they exchange."""

from cmd_lightning.networks.contracts import AutoencoderNetwork, ContentModel, MotionModel, VideoDenoiser
from cmd_lightning.networks.latents import Condition, LatentSpec
from cmd_lightning.networks.network import Network

__all__ = ["AutoencoderNetwork", "Condition", "ContentModel", "LatentSpec", "MotionModel", "Network", "VideoDenoiser"]
