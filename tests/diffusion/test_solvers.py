import pytest
import torch
from diffusers import DDIMScheduler

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


def test_what_cannot_be_is_reported():
    with pytest.raises(InputError, match=r"solver euler: choose ddim, dpm\+\+, unipc"):
        solver("euler", Diffusion().scheduler())
    with pytest.raises(InputError, match="trained by flow matching"):
        solver("dpm++", FlowMatching().scheduler())
    scheduler = DDIMScheduler(clip_sample=True, clip_sample_range=2.0)
    with pytest.raises(InputError, match=r"it clips to 1, the model to 2\.0"):
        solver("unipc", scheduler)
    assert solver("ddim", scheduler).config.clip_sample_range == 2.0
