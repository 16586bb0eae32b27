"""Latents kept in memory: encoded once per clip, and used as kept from the first epoch."""

import pytest
import torch

from cmd_lightning.components import MotionDiffusion
from cmd_lightning.zoo.motion.dit import MotionDiT

SHAPE = (3, 5, 8, 12)


def small(spec, condition_dim):
    return MotionDiT(spec, condition_dim, width=16, depth=1, heads=2)


@pytest.fixture
def batch():
    video = torch.randint(0, 256, (2, *SHAPE), dtype=torch.uint8)
    return {"video": video, "key": ["a", "b"], "fps": torch.full((2,), 8.0)}


def test_each_clip_is_encoded_once(tiny_autoencoder, batch, monkeypatch):
    component = MotionDiffusion(small, tiny_autoencoder(), video_shape=SHAPE, cache_latents=True)
    first = component.training_latents(batch)
    for kept, exact in zip(first, component.clean_latents(batch), strict=True):
        assert torch.equal(kept, exact.half().float())
        assert not torch.equal(kept, exact)

    monkeypatch.setattr(component, "clean_latents", lambda batch: pytest.fail("encoded again"))
    other = {"video": torch.zeros_like(batch["video"]), "key": ["b", "a"], "fps": batch["fps"]}
    for kept, swapped in zip(first, component.training_latents(other), strict=True):
        assert torch.equal(swapped, kept.flip(0))


def test_a_new_clip_is_encoded(tiny_autoencoder, batch):
    component = MotionDiffusion(small, tiny_autoencoder(), video_shape=SHAPE, cache_latents=True)
    motion, _ = component.training_latents(batch)
    later = batch | {"video": batch["video"].flip(0), "key": ["b", "c"]}
    later["video"][1] = 255 - later["video"][1]
    again, _ = component.training_latents(later)
    torch.testing.assert_close(again[0], motion[1], atol=2e-3, rtol=2e-3)  # half precision, another place in the batch
    assert (again[1] - motion[0]).abs().max() > 0.05


def test_without_it_the_latents_are_exact(tiny_autoencoder, batch):
    component = MotionDiffusion(small, tiny_autoencoder(), video_shape=SHAPE)
    for used, exact in zip(component.training_latents(batch), component.clean_latents(batch), strict=True):
        assert torch.equal(used, exact)
