"""A small ranking: the included autoencoder and text encoder, a few clips, a few steps."""

import pytest
from torch import nn

from cmd_lightning.networks import MotionModel
from cmd_lightning.ranking.latents import open_bench
from cmd_lightning.ranking.protocol import Protocol
from cmd_lightning.threads import one_thread


class Shallow(MotionModel):
    """A convolution over the motion latent, which knows neither content nor caption."""

    def __init__(self, latent_spec, condition_dim, width=8):
        super().__init__()
        self.hidden = nn.Conv2d(latent_spec.motion[0], width, 3, padding=1)
        self.out = nn.Conv2d(width, latent_spec.motion[0], 1)
        self.seen = []

    def forward(self, motion, timestep, content, condition):
        if self.training:
            self.seen.append((motion.detach().clone(), timestep.clone()))
        return self.out(self.hidden(motion).tanh())


class Deeper(Shallow):
    """Another model than `Shallow`."""

    def __init__(self, latent_spec, condition_dim, width=12):
        super().__init__(latent_spec, condition_dim, width)


@pytest.fixture(scope="session")
def small():
    """Four steps of training, eight held-out clips, two of sampling."""
    return Protocol(samples=64, batch_size=16, warmup_steps=1, steps=2, train_clips=24, test_clips=8)


@pytest.fixture(scope="session")
def bench(small, tmp_path_factory):
    """The clips of the small protocol; made on one thread, as `rank` makes them."""
    with one_thread():
        yield open_bench(small, tmp_path_factory.mktemp("ranking") / "cache", lambda line: None)


@pytest.fixture
def shallow():
    """A model that builds in no time."""
    return Shallow


@pytest.fixture
def deeper():
    """Another one."""
    return Deeper
