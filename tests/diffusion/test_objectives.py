import math

import numpy as np
import pytest
import torch

from cmd_lightning.diffusion import Diffusion, FlowMatching
from cmd_lightning.diffusion.objectives import objective_of, recorded
from cmd_lightning.errors import InputError

STEPS = torch.tensor([0, 1, 250, 700, 999])


def kept(schedule="linear", start=1e-4, end=0.02, steps=1000):
    """The share of the signal's variance that is kept at each timestep, in float64."""
    if schedule == "linear":
        betas = np.linspace(start, end, steps)
    elif schedule == "scaled_linear":
        betas = np.linspace(start**0.5, end**0.5, steps) ** 2
    else:

        def bar(u):
            return math.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2

        betas = np.array([min(1 - bar((i + 1) / steps) / bar(i / steps), 0.999) for i in range(steps)])
    return torch.from_numpy(np.cumprod(1 - betas))


def pair(count=5):
    return torch.randn(count, 2, 3, 5), torch.randn(count, 2, 3, 5)


def wide(x):
    return x.view(-1, 1, 1, 1)


@pytest.mark.parametrize("schedule", ["linear", "scaled_linear", "squaredcos_cap_v2"])
def test_corruption_follows_the_noise_schedule(schedule):
    clean, noise = pair()
    a = wide(kept(schedule)[STEPS])
    expected = a.sqrt() * clean.double() + (1 - a).sqrt() * noise.double()
    noisy = Diffusion(beta_schedule=schedule).corrupt(clean, noise, STEPS)
    torch.testing.assert_close(noisy.double(), expected, atol=1e-4, rtol=1e-3)
    assert noisy.dtype == torch.float32


def test_own_betas_and_length():
    objective = Diffusion(beta_start=0.001, beta_end=0.1, num_train_timesteps=50)
    clean, noise = pair(2)
    a = wide(kept("linear", 0.001, 0.1, 50)[[0, 49]])
    expected = a.sqrt() * clean.double() + (1 - a).sqrt() * noise.double()
    torch.testing.assert_close(
        objective.corrupt(clean, noise, torch.tensor([0, 49])).double(), expected, atol=1e-5, rtol=0
    )


def test_targets():
    clean, noise = pair()
    a = wide(kept()[STEPS]).float()
    assert torch.equal(Diffusion("epsilon").target(clean, noise, STEPS), noise)
    assert torch.equal(Diffusion("sample").target(clean, noise, STEPS), clean)
    velocity = a.sqrt() * noise - (1 - a).sqrt() * clean
    torch.testing.assert_close(Diffusion("v_prediction").target(clean, noise, STEPS), velocity, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("gamma", [1.0, 5.0])
def test_min_snr_weights(gamma):
    snr = kept()[STEPS] / (1 - kept()[STEPS])
    bounded = torch.minimum(snr, torch.tensor(gamma, dtype=torch.float64))
    for prediction, expected in (
        ("epsilon", bounded / snr),
        ("v_prediction", bounded / (snr + 1)),
        ("sample", bounded),
    ):
        weight = Diffusion(prediction, min_snr_gamma=gamma).weight(STEPS)
        torch.testing.assert_close(weight.double(), expected, atol=1e-6, rtol=1e-3)
    assert Diffusion().weight(STEPS).tolist() == [1.0] * 5


def test_min_snr_is_one_loss_however_it_is_predicted():
    """A guess of the clean sample, told as noise, velocity or sample, costs min(SNR, gamma) times its squared error."""
    timestep = torch.tensor([30, 250, 700, 900, 600])
    clean, noise = pair()
    guess = clean + 0.3 * torch.randn_like(clean)
    a = wide(kept()[timestep]).float()
    noisy = a.sqrt() * clean + (1 - a).sqrt() * noise
    told_noise = (noisy - a.sqrt() * guess) / (1 - a).sqrt()
    message = {"epsilon": told_noise, "v_prediction": a.sqrt() * told_noise - (1 - a).sqrt() * guess, "sample": guess}
    expected = (a / (1 - a)).clamp_max(5).flatten() * (guess - clean).square().flatten(1).mean(1)
    for prediction, output in message.items():
        loss = Diffusion(prediction, min_snr_gamma=5.0).loss(output, clean, noise, timestep)
        torch.testing.assert_close(loss, expected, atol=1e-5, rtol=1e-2)


def test_loss_is_the_mean_squared_error_of_each_sample_in_float32():
    clean, noise = pair(3)
    prediction = torch.randn(3, 2, 3, 5)
    timestep = torch.tensor([1, 500, 999])
    for objective, target in ((Diffusion(), noise), (FlowMatching(), noise - clean)):
        loss = objective.loss(prediction, clean, noise, timestep)
        expected = ((prediction.numpy() - target.numpy()) ** 2).reshape(3, -1).mean(1)
        np.testing.assert_allclose(loss, expected, rtol=1e-5)
        half = objective.loss(prediction.bfloat16(), clean.bfloat16(), noise.bfloat16(), timestep)
        assert half.dtype == torch.float32


def test_timesteps_cover_the_schedule_evenly():
    objective = Diffusion(num_train_timesteps=10)
    assert objective.timesteps(torch.tensor([0.0, 0.0999, 0.1001, 0.55, 0.99999])).tolist() == [0, 0, 1, 5, 9]
    counts = objective.timesteps(torch.rand(20_000)).bincount(minlength=10)
    assert len(counts) == 10
    assert (counts - 2000).abs().max() < 200


def test_flow_is_a_straight_line_from_clean_to_noise():
    objective = FlowMatching()
    clean, noise = pair()
    quantile = torch.tensor([0.0, 0.1, 0.5, 0.9, 1.0])
    timestep = objective.timesteps(quantile)
    torch.testing.assert_close(timestep, 1000 * quantile)
    noisy = objective.corrupt(clean, noise, timestep)
    torch.testing.assert_close(noisy, clean + wide(quantile) * (noise - clean), atol=1e-6, rtol=1e-5)
    later = objective.corrupt(clean, noise, timestep + 1)
    slope = (later - noisy) * 1000
    torch.testing.assert_close(objective.target(clean, noise, timestep), slope, atol=2e-3, rtol=1e-3)
    assert objective.weight(timestep).tolist() == [1.0] * 5


def test_shift_moves_timesteps_towards_noise_in_training_as_in_sampling():
    objective = FlowMatching(shift=3.0)
    quantile = torch.tensor([0.0, 0.25, 0.5, 1.0])
    expected = [1000 * 3 * q / (1 + 2 * q) for q in quantile.tolist()]
    torch.testing.assert_close(objective.timesteps(quantile), torch.tensor(expected))
    scheduler = objective.scheduler()
    plain = FlowMatching().scheduler()
    unshifted = plain.timesteps / 1000
    torch.testing.assert_close(scheduler.timesteps, objective.timesteps(unshifted), atol=1e-2, rtol=1e-4)


def test_scheduler_knows_what_is_predicted_and_is_fresh():
    objective = Diffusion("v_prediction", "scaled_linear", 0.00085, 0.012, clip_sample=True)
    scheduler = objective.scheduler()
    assert (scheduler.config.prediction_type, scheduler.config.clip_sample) == ("v_prediction", True)
    torch.testing.assert_close(
        scheduler.alphas_cumprod.double(), kept("scaled_linear", 0.00085, 0.012), atol=1e-5, rtol=1e-3
    )
    scheduler.set_timesteps(4)
    assert scheduler.timesteps.tolist() == [999, 749, 499, 249]  # from pure noise, as trained
    assert objective.scheduler().num_inference_steps is None


@pytest.mark.parametrize("objective", [Diffusion, FlowMatching])
def test_logit_normal_timesteps(objective):
    quantile = torch.arange(0.5, 2000) / 2000
    drawn = objective(logit_normal=(-0.5, 0.8)).timesteps(quantile) / 1000
    logits = torch.special.logit(drawn[50:-50].double())
    uniform = torch.special.logit(objective().timesteps(quantile) / 1000)
    # Quantiles of the normal distribution, by numpy: median, and one deviation to either side.
    np.testing.assert_allclose(np.quantile(drawn, 0.5), 1 / (1 + math.exp(0.5)), atol=2e-3)
    for share, deviations in ((0.158655, -1), (0.841345, 1)):
        np.testing.assert_allclose(np.quantile(drawn, share), 1 / (1 + math.exp(0.5 - 0.8 * deviations)), atol=2e-3)
    assert logits.std() < uniform[50:-50].std()
    for extreme in (0.0, 1 - 2**-24):
        timestep = objective(logit_normal=(0.0, 3.0)).timesteps(torch.tensor([extreme]))
        assert 0 <= timestep.item() < 1000


def test_shift_comes_after_the_logit_normal():
    quantile = torch.tensor([0.1, 0.5, 0.9])
    share = FlowMatching(logit_normal=(0.3, 1.0)).timesteps(quantile) / 1000
    shifted = FlowMatching(shift=3.0, logit_normal=(0.3, 1.0)).timesteps(quantile) / 1000
    torch.testing.assert_close(shifted, 3 * share / (1 + 2 * share))


def test_velocity_loss_is_one_loss_however_it_is_predicted():
    """A guess of the clean sample, told in any way, costs the squared error of the velocity that follows from it."""
    timestep = torch.tensor([30, 250, 700, 900, 600])
    clean, noise = pair()
    guess = clean + 0.3 * torch.randn_like(clean)
    a = wide(kept()[timestep]).float()
    noisy = a.sqrt() * clean + (1 - a).sqrt() * noise
    told_noise = (noisy - a.sqrt() * guess) / (1 - a).sqrt()
    message = {"epsilon": told_noise, "v_prediction": a.sqrt() * told_noise - (1 - a).sqrt() * guess, "sample": guess}
    true_velocity = a.sqrt() * noise - (1 - a).sqrt() * clean
    expected = (message["v_prediction"] - true_velocity).square().flatten(1).mean(1)
    for prediction, output in message.items():
        loss = Diffusion(prediction, velocity_loss=True).loss(output, clean, noise, timestep)
        torch.testing.assert_close(loss, expected, atol=1e-5, rtol=1e-2)


def test_velocity_loss_is_bounded_where_there_is_next_to_no_noise():
    assert Diffusion("sample", velocity_loss=True).weight(torch.tensor([0])).item() == pytest.approx(400)
    with pytest.raises(InputError, match="velocity_loss true"):
        Diffusion("sample", velocity_loss=True, min_snr_gamma=5.0)


@pytest.mark.parametrize(
    "objective",
    [
        Diffusion(),
        Diffusion(prediction="sample", velocity_loss=True, logit_normal=(0.2, 1.5)),
        Diffusion(prediction="v_prediction", min_snr_gamma=5.0, beta_schedule="squaredcos_cap_v2"),
        FlowMatching(shift=2.0, logit_normal=(-0.5, 0.8)),
    ],
)
def test_a_checkpoint_gives_the_objective_back(objective):
    again = objective_of(objective.scheduler(), **recorded(objective))
    timestep = objective.timesteps(torch.rand(5, generator=torch.Generator().manual_seed(0)))
    clean, noise = pair()
    assert torch.equal(again.timesteps(torch.rand(5, generator=torch.Generator().manual_seed(0))), timestep)
    assert torch.equal(again.loss(clean, clean, noise, timestep), objective.loss(clean, clean, noise, timestep))
