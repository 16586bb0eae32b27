"""A stock Stable Diffusion U-Net behind the content model's contract."""

from __future__ import annotations

from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from cmd_lightning.networks.contracts import Condition, ContentModel


def predict_content(network: nn.Module, content: Tensor, timestep: Tensor, condition: Condition | None) -> Tensor:
    """What `network` says of a noisy content frame `(B, C, H, W)`, for a `ContentModel` or a stock U-Net.

    The U-Net stays the stock class, so that everything made for Stable Diffusion (LoRA, ControlNet, pipelines) opens
    it. Like Stable Diffusion's, it attends to all tokens, padding included.
    """
    if isinstance(network, ContentModel):
        return network(content, timestep, condition)
    assert isinstance(network, UNet2DConditionModel), type(network)
    if condition is None:
        tokens = content.new_zeros(len(content), 1, network.config.cross_attention_dim)
    else:
        tokens = condition.tokens if condition.tokens is not None else condition.pooled[:, None]
    return network(content, timestep, encoder_hidden_states=tokens, return_dict=False)[0]
