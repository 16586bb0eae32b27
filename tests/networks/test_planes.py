"""The latents of an autoencoder as one, and back."""

import torch

from cmd_lightning.networks import LatentSpec


def test_points_lie_row_by_row():
    content, motion = torch.arange(6.0).view(1, 1, 2, 3), 10 + torch.arange(8.0).view(1, 1, 4, 2)
    packed = LatentSpec.pack(content, motion)
    assert packed.flatten().tolist() == [0, 1, 2, 3, 4, 5, *range(10, 18)]
    spec = LatentSpec((1, 2, 3), (1, 4, 2), ((0.0, 0.0), (0.0, 1.0)))
    assert spec.packed == packed.shape[1:]
    for part, original in zip(spec.unpack(packed), (content, motion), strict=True):
        assert torch.equal(part, original)
