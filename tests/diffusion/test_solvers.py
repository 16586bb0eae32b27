import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchLCMScheduler,
    UniPCMultistepScheduler,
)

from cmd_lightning.diffusion import Diffusion, FlowMatching
from cmd_lightning.diffusion.sampling import sample
from cmd_lightning.diffusion.solvers import SOLVERS, solver
from cmd_lightning.errors import InputError

SETTINGS = ("beta_schedule", "beta_start", "beta_end", "num_train_timesteps", "prediction_type", "timestep_spacing")


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_a_solver_has_the_settings_of_the_models_scheduler(name, prediction):
    own = Diffusion(prediction, "scaled_linear", 0.00085, 0.012, 500).scheduler()
    other = solver(name, own)
    assert type(other) is SOLVERS[name]
    assert {key: other.config[key] for key in SETTINGS} == {key: own.config[key] for key in SETTINGS}
    torch.testing.assert_close(other.alphas_cumprod, own.alphas_cumprod)
    other.set_timesteps(4)
    assert other.timesteps[0] == 499  # from pure noise, as in training
    again = solver("ddim", other)
    assert {key: again.config[key] for key in SETTINGS} == {key: own.config[key] for key in SETTINGS}


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize(("clip", "expected"), [(True, 1.0), (False, 5.0)])
def test_the_clean_sample_is_clipped_where_the_models_scheduler_clips(name, clip, expected):
    scheduler = solver(name, Diffusion("sample", clip_sample=clip).scheduler())
    result = sample(lambda noisy, _: torch.full_like(noisy, 5.0), scheduler, torch.randn(2, 3, 4), 5)
    torch.testing.assert_close(result, torch.full_like(result, expected), atol=1e-3, rtol=0)


@pytest.mark.parametrize("name", ["dpm++", "unipc"])
def test_values_within_the_range_are_not_touched_by_clipping(name):
    noise = torch.randn(2, 3, 4)
    results = [
        sample(
            lambda noisy, _: 0.9 * noisy.tanh(),
            solver(name, Diffusion("sample", clip_sample=clip).scheduler()),
            noise,
            6,
        )
        for clip in (True, False)
    ]
    torch.testing.assert_close(*results)


FLOWS = {
    "ddim": FlowMatchEulerDiscreteScheduler,
    "dpm++": DPMSolverMultistepScheduler,
    "unipc": UniPCMultistepScheduler,
    "lcm": FlowMatchLCMScheduler,
}


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("steps", [1, 2, 4, 8])
def test_solvers_of_flow_matching_begin_at_pure_noise_and_take_equal_shares_before_the_shift(name, steps):
    made = solver(name, FlowMatching(3.0).scheduler())
    assert type(made) is FLOWS[name]
    seen = []

    def predict(noisy, timestep):
        seen.append(timestep[0].item() / 1000)
        return torch.zeros_like(noisy)

    sample(predict, made, torch.randn(2, 3, 4), steps)
    shares = [1 - step / steps for step in range(steps)]
    if name != "ddim":  # diffusers' Euler has its own spacing
        assert seen == pytest.approx([3 * share / (1 + 2 * share) for share in shares], abs=2e-3)
    assert seen[0] == pytest.approx(1, abs=2e-3) and len(seen) == steps


@pytest.mark.parametrize("name", ["ddim", "dpm++", "unipc"])
def test_solvers_of_flow_matching_reach_a_gaussian(name):
    def velocity(noisy, timestep):  # of the best denoiser of data from N(0.7, 0.3²)
        sigma = (timestep / 1000).view(-1, 1)
        excess = (noisy - (1 - sigma) * 0.7) / ((1 - sigma) ** 2 * 0.09 + sigma**2)
        return sigma * excess - (0.7 + (1 - sigma) * 0.09 * excess)

    noise = torch.randn(1000, 1)
    found = sample(velocity, solver(name, FlowMatching(2.0).scheduler()), noise, {"ddim": 200}.get(name, 30))
    torch.testing.assert_close(found, 0.7 + 0.3 * noise, atol=0.06, rtol=0)


@pytest.mark.parametrize("first", SOLVERS)
@pytest.mark.parametrize("objective", [FlowMatching(3.0), Diffusion("v_prediction", "scaled_linear", 0.00085, 0.012)])
def test_a_solver_follows_another(first, objective):
    """Whichever solver a model has, the next one is that for how it was trained."""
    other = solver(first, objective.scheduler())
    for name in SOLVERS:
        made, direct = (solver(name, own) for own in (other, objective.scheduler()))
        assert type(made) is type(direct)
        for key in ("shift", "flow_shift", "beta_start", "prediction_type", "num_train_timesteps"):
            assert made.config.get(key) == direct.config.get(key)


def test_what_cannot_be_is_reported():
    with pytest.raises(InputError, match=r"solver euler: choose ddim, dpm\+\+, unipc, lcm"):
        solver("euler", Diffusion().scheduler())
    by_size = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    with pytest.raises(InputError, match=r"FlowMatchEulerDiscreteScheduler has neither a noise schedule .* shift"):
        solver("unipc", by_size)
    scheduler = DDIMScheduler(clip_sample=True, clip_sample_range=2.0)
    with pytest.raises(InputError, match=r"it clips to 1, the model to 2\.0"):
        solver("unipc", scheduler)
    assert solver("ddim", scheduler).config.clip_sample_range == 2.0
