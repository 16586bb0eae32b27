"""Settings of small models, for fixtures and separate processes."""

import torch

TEXT = {"context_length": 12, "width": 16, "heads": 2, "layers": 1}
"""open_clip's settings of a small text tower."""


@torch.no_grad()
def wake(network, scale=0.1):
    """Adds a random value to every weight, so that weights which start at zero have an effect."""
    for parameter in network.parameters():
        parameter += scale * torch.randn_like(parameter)
    return network
