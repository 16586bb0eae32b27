"""Denoising from a clean sample, and around places that are kept."""

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    HeunDiscreteScheduler,
    UniPCMultistepScheduler,
)

from cmd_lightning.diffusion.sampling import Known, generators_of, sample

KINDS = (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    HeunDiscreteScheduler,
    UniPCMultistepScheduler,
)
CLEAN = torch.linspace(-1, 1, 2 * 3 * 4 * 5).view(2, 3, 4, 5)


@pytest.fixture
def noise():
    return torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("strength", [0.3, 1.0])
def test_kept_places_are_the_clean_ones_bit_for_bit(kind, strength, noise):
    kept = torch.zeros(4, 5, dtype=torch.bool)
    kept[1:3] = True
    known = Known(CLEAN, strength, kept)
    made = sample(lambda x, t: 0.3 * x, kind(), noise, 7, generators_of([1, 2], 0), known=known)
    assert torch.equal(made[..., 1:3, :], CLEAN[..., 1:3, :])
    assert (made[..., 3, :] - CLEAN[..., 3, :]).abs().min() > 0


@pytest.mark.parametrize(("strength", "steps"), [(0.01, 1), (0.25, 2), (0.5, 5), (1.0, 10)])
def test_a_share_of_the_steps_runs(strength, steps, noise):
    for kind in KINDS[:4]:
        seen = []
        sample(lambda x, t, seen=seen: seen.append(int(t[0])) or 0 * x, kind(), noise, 10, known=Known(CLEAN, strength))
        scheduler = kind()
        scheduler.set_timesteps(10)
        assert seen == [int(t) for t in scheduler.timesteps[10 - steps :]]


def mixture(scheduler, timestep, noise):
    """What a noisy sample is by the formula of its kind."""
    if isinstance(scheduler, FlowMatchEulerDiscreteScheduler):
        share = timestep / 1000
        return (1 - share) * CLEAN + share * noise
    betas = torch.linspace(scheduler.config.beta_start, scheduler.config.beta_end, 1000, dtype=torch.float64)
    left = (1 - betas).cumprod(0)[timestep.long()].float()
    return left.sqrt() * CLEAN + (1 - left).sqrt() * noise


@pytest.mark.parametrize("kind", [DDIMScheduler, FlowMatchEulerDiscreteScheduler, DPMSolverMultistepScheduler])
def test_the_clean_sample_is_noised_to_the_first_step_and_kept_places_to_each(kind, noise):
    scheduler, seen = kind(), []
    kept = torch.zeros(4, 5, dtype=torch.bool)
    kept[2] = True

    def predict(x, timestep):
        expected = mixture(scheduler, timestep[0], noise)
        torch.testing.assert_close(x[..., 2, :], expected[..., 2, :])
        if not seen:
            torch.testing.assert_close(x, expected)
        seen.append(timestep[0])
        return torch.zeros_like(x)

    sample(predict, scheduler, noise, 10, known=Known(CLEAN, 0.6, kept))
    assert len(seen) == 6


def test_a_denoiser_of_one_point_finds_it(noise):
    """Its velocity leads from anywhere to the point, and kept places do not follow."""
    scheduler, kept = FlowMatchEulerDiscreteScheduler(), torch.zeros(4, 5, dtype=torch.bool)
    kept[0, 0] = True

    def predict(x, timestep):
        return (x - 0.5) / (timestep / 1000).view(-1, 1, 1, 1)

    made = sample(predict, scheduler, noise, 6, known=Known(CLEAN, 0.5, kept))
    torch.testing.assert_close(made[..., 1:, :], torch.full_like(made[..., 1:, :], 0.5))
    assert torch.equal(made[..., 0, 0], CLEAN[..., 0, 0])
