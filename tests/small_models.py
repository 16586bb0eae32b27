"""What small models share, in fixtures and in processes of their own."""

import torch

TEXT = {"context_length": 12, "width": 16, "heads": 2, "layers": 1}
"""open_clip's settings of a small text tower."""


@torch.no_grad()
def wake(network, scale=0.1):
    """Gives every weight a random share, so that nothing is hidden behind weights that start at zero."""
    for parameter in network.parameters():
        parameter += scale * torch.randn_like(parameter)
    return network
