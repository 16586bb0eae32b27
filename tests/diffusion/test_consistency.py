"""Consistency distillation against a Gaussian, whose best denoiser, trajectories and consistency function are known."""

import functools

import pytest
import torch
from diffusers import FlowMatchLCMScheduler, LCMScheduler

from cmd_lightning.diffusion import Diffusion, FlowMatching
from cmd_lightning.diffusion.consistency import (
    ContinuousConsistency,
    LatentConsistency,
    jump,
    method_of,
    trajectory,
)
from cmd_lightning.diffusion.sampling import sample
from cmd_lightning.diffusion.solvers import solver
from cmd_lightning.errors import InputError

MEAN, STD = 0.7, 0.3
OBJECTIVES = {
    "epsilon": Diffusion(),
    "v_prediction": Diffusion("v_prediction", "scaled_linear", 0.00085, 0.012),
    "sample": Diffusion("sample"),
    "flow": FlowMatching(3.0),
}
METHODS = {"LCM": LatentConsistency(), "sCM": ContinuousConsistency()}


def levels(objective, timestep):
    """Shares of clean sample and noise, from their definitions."""
    if isinstance(objective, FlowMatching):
        sigma = timestep / 1000
        return (1 - sigma)[:, None], sigma[:, None]
    kept = kept_by(objective)[timestep.long()][:, None]
    return kept.sqrt(), (1 - kept).sqrt()


@functools.cache
def kept_by(objective):
    return torch.cumprod(1 - objective.scheduler().betas.double(), 0).float()


def said(objective, clean, noise, timestep):
    """What a network says that takes a sample for these two parts."""
    if isinstance(objective, FlowMatching):
        return noise - clean
    a, s = levels(objective, timestep)
    return {"epsilon": noise, "sample": clean, "v_prediction": a * noise - s * clean}[objective.prediction]


def teacher(objective):
    """The best denoiser of N(MEAN, STD²): conditional expectations."""

    def predict(noisy, timestep):
        a, s = levels(objective, timestep)
        excess = (noisy - a * MEAN) / (a**2 * STD**2 + s**2)
        return said(objective, MEAN + a * STD**2 * excess, s * excess, timestep)

    return predict


def student(objective):
    """The true consistency function: each quantile of the noisy samples goes to that of the clean ones."""

    def predict(noisy, timestep):
        a, s = levels(objective, timestep)
        clean = MEAN + STD * (noisy - a * MEAN) / (a**2 * STD**2 + s**2).sqrt()
        return said(objective, clean, (noisy - a * clean) / s.clamp_min(1e-6), timestep)

    return predict


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_prediction_splits_a_sample_into_its_parts(name):
    objective = OBJECTIVES[name]
    clean, noise, timestep = torch.randn(5, 3, 4), torch.randn(5, 3, 4), torch.tensor([1, 19, 400, 700, 999])
    noisy = objective.corrupt(clean, noise, timestep)
    parts = objective.split(objective.target(clean, noise, timestep), noisy, timestep)
    for found, wanted in zip(parts, (clean, noise), strict=True):
        torch.testing.assert_close(found, wanted, atol=3e-3, rtol=1e-3)


def test_ladders_are_those_of_the_samplers():
    lcm = LCMScheduler(original_inference_steps=50)
    lcm.set_timesteps(50)
    assert Diffusion().ladder(50)[1:].flip(0).tolist() == lcm.timesteps.tolist()
    assert Diffusion().ladder(50)[0] == 0
    flow = FlowMatchLCMScheduler(shift=3.0)
    flow.set_timesteps(sigmas=[1.0, 0.75, 0.5, 0.25])
    torch.testing.assert_close(FlowMatching(3.0).ladder(4).flip(0)[:-1], flow.timesteps)
    assert FlowMatching(3.0).ladder(4)[0] == 0
    with pytest.raises(InputError, match="intervals 30: the teacher's schedule has 1000 timesteps; give a divisor"):
        Diffusion().ladder(30)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_jump_is_the_step_of_the_sampler_that_students_are_exported_with(name):
    """And at timestep 0, where the sampler never is, nothing changes."""
    objective, noise = OBJECTIVES[name], torch.randn(6, 1)
    scheduler = solver("lcm", objective.scheduler())
    predict = teacher(objective)
    start = objective.ladder(1)[-1].expand(6)
    one = sample(predict, scheduler, noise, 1)
    torch.testing.assert_close(one, jump(objective, predict, noise, start), atol=1e-4, rtol=1e-4)
    zero = torch.zeros(6, dtype=start.dtype)
    if name != "sample":  # whose noise is what is left, divided by nearly nothing
        torch.testing.assert_close(jump(objective, predict, noise, zero), noise)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_trajectory_ends_where_the_flow_does(name):
    noise = torch.randn(500, 1)
    passed = trajectory(OBJECTIVES[name], teacher(OBJECTIVES[name]), noise, 200)
    assert len(passed) == 201
    assert torch.equal(passed[0][1], noise)
    assert passed[-1][0].unique().tolist() == [0]
    torch.testing.assert_close(passed[-1][1], MEAN + STD * noise, atol=0.04, rtol=0)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["epsilon", "v_prediction", "flow"])
def test_the_consistency_function_is_where_the_loss_is_least(name, method):
    """There the loss has no gradient to speak of; the teacher itself, which jumps to the mean, is far from it."""
    objective = OBJECTIVES[name]
    clean, noise = MEAN + STD * torch.randn(4000, 1), torch.randn(4000, 1)
    quantile = torch.rand(4000)
    forces = {}
    for who, predict in (("student", student(objective)), ("teacher", teacher(objective))):
        gain = torch.ones(4000, 1, requires_grad=True)

        def scaled(noisy, timestep, predict=predict, gain=gain):
            return gain * predict(noisy, timestep)

        loss = METHODS[method].loss(objective, scaled, teacher(objective), clean, noise, quantile)
        assert loss.shape == (4000,)
        loss.sum().backward()
        early = (quantile > 0.1) & (quantile < 0.9)  # where neither the anchor nor the end of the window is felt
        forces[who] = gain.grad[early].abs().mean().item()
        gain.grad = None
    assert forces["student"] < 0.35 * forces["teacher"], forces


@pytest.mark.parametrize("method", METHODS)
def test_only_the_students_own_jump_learns(method):
    objective = FlowMatching()
    weights = {who: torch.tensor(0.5, requires_grad=True) for who in ("student", "teacher")}
    calls = {"student": [], "teacher": []}

    def network(who):
        def predict(noisy, timestep):
            calls[who].append(torch.is_grad_enabled())
            return weights[who] * noisy

        return predict

    given = torch.randn(3, 2, 4), torch.randn(3, 2, 4), torch.tensor([0.0, 0.5, 0.999])
    loss = METHODS[method].loss(objective, network("student"), network("teacher"), *given)
    assert loss.dtype == torch.float32 and loss.isfinite().all()
    loss.sum().backward()
    assert weights["teacher"].grad is None and weights["student"].grad.abs() > 0
    assert calls == {"student": [True, False] + [False] * (method == "sCM"), "teacher": [False]}


def test_methods_come_back_from_plain_data():
    for method in (LatentConsistency(20, 0.1), ContinuousConsistency(0.02, 0.5)):
        assert method_of(method.plain()) == method


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: LatentConsistency(intervals=0), "model.method.intervals 0: must be at least 1"),
        (lambda: LatentConsistency(huber=0.0), "model.method.huber 0.0: give a number above 0"),
        (lambda: ContinuousConsistency(window=0.5), "model.method.window 0.5: give a share"),
        (lambda: ContinuousConsistency(damping=0.0), "model.method.damping 0.0: give a number above 0"),
    ],
)
def test_wrong_options_are_reported(wrong, message):
    with pytest.raises(InputError, match=message):
        wrong()
