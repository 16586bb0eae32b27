"""Sampling against distributions whose best denoiser is known: a Gaussian of any mean and width."""

import itertools

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    UniPCMultistepScheduler,
)
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from cmd_lightning.diffusion import Diffusion, FlowMatching
from cmd_lightning.diffusion.sampling import Guided, autoguided, generators_of, sample, seeded_noise
from cmd_lightning.diffusion.solvers import solver
from cmd_lightning.networks import Condition

MEAN, STD = 0.7, 0.3
KEPT = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0).float()


def best_denoiser(prediction):
    """What the ideal network predicts for data sampled from N(MEAN, STD²): expectations of jointly normal x and e."""

    def predict(noisy, timestep):
        a = KEPT[timestep.long()].view(-1, 1)
        excess = (noisy - a.sqrt() * MEAN) / (a * STD**2 + 1 - a)
        noise, clean = (1 - a).sqrt() * excess, MEAN + a.sqrt() * STD**2 * excess
        return {"epsilon": noise, "sample": clean, "v_prediction": a.sqrt() * noise - (1 - a).sqrt() * clean}[
            prediction
        ]

    return predict


def assert_right_distribution(result, noise, tolerance=0.02):
    assert result.shape == noise.shape
    assert abs(result.mean() - MEAN) < tolerance
    assert abs(result.std() - STD) < tolerance
    # The ideal flow maps each quantile to itself, so that a sample is known one by one.
    torch.testing.assert_close(result, MEAN + STD * noise, atol=4 * tolerance, rtol=0)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_ddim_reaches_the_data(prediction):
    noise = torch.randn(4000, 1)
    result = sample(best_denoiser(prediction), Diffusion(prediction).scheduler(), noise, 100)
    assert_right_distribution(result, noise)


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_flow_matching_reaches_the_data(shift):
    objective = FlowMatching(shift)

    def predict(noisy, timestep):
        sigma = (timestep / 1000).view(-1, 1)
        excess = (noisy - (1 - sigma) * MEAN) / ((1 - sigma) ** 2 * STD**2 + sigma**2)
        return sigma * excess - (MEAN + (1 - sigma) * STD**2 * excess)

    noise = torch.randn(4000, 1)
    assert_right_distribution(sample(predict, objective.scheduler(), noise, 100), noise)


@pytest.mark.parametrize(
    "scheduler", [DDIMScheduler, DPMSolverMultistepScheduler, UniPCMultistepScheduler, EulerDiscreteScheduler]
)
def test_any_scheduler_of_diffusers_reaches_the_data(scheduler):
    noise = torch.randn(4000, 1)
    swapped = scheduler.from_config(Diffusion().scheduler().config)
    seen = []
    result = sample(best_denoiser("epsilon"), swapped, noise, 50, on_step=lambda *step: seen.append(step))
    assert_right_distribution(result, noise, 0.04)
    assert len(seen) == 50


def test_scheduler_can_be_used_again():
    noise = torch.randn(5, 1)
    scheduler = UniPCMultistepScheduler.from_config(Diffusion().scheduler().config)
    first = sample(best_denoiser("epsilon"), scheduler, noise, 7)
    sample(best_denoiser("epsilon"), scheduler, noise + 1, 4)
    assert torch.equal(sample(best_denoiser("epsilon"), scheduler, noise, 7), first)


def conditions(batch=2):
    own = Condition(torch.randn(batch, 3), torch.randn(batch, 4, 3), torch.ones(batch, 4, dtype=torch.bool))
    return own, Condition(torch.randn(batch, 3), torch.randn(batch, 4, 3), torch.zeros(batch, 4, dtype=torch.bool))


def denoiser_with_record(calls):
    def denoiser(noisy, timestep, condition):
        calls.append(len(noisy))
        said = noisy * timestep.view(-1, 1)
        if condition is None:
            return said
        return (
            said
            + condition.pooled.sum(1, keepdim=True).sin()
            + (condition.tokens.mean(1) * condition.mask[:, :3]).sum(1)[:, None]
        )

    return denoiser


@pytest.mark.parametrize("scale", [1.5, 2.5, 7.0])
def test_guidance_is_the_formula_in_one_batch(scale):
    calls = []
    denoiser = denoiser_with_record(calls)
    own, null = conditions()
    noisy, timestep = torch.randn(2, 1), torch.tensor([3.0, 9.0])
    result = Guided(denoiser, own, null, scale)(noisy, timestep)
    assert calls == [4]
    with_condition, without = denoiser(noisy, timestep, own), denoiser(noisy, timestep, null)
    w = scale - 1
    torch.testing.assert_close(result, (1 + w) * with_condition - w * without)  # the paper's Algorithm 1


@pytest.mark.parametrize("scale", [1.0, 0.0, 0.5, -2.0])
def test_scale_one_or_less_is_the_plain_denoiser_called_once(scale):
    calls = []
    denoiser = denoiser_with_record(calls)
    own, null = conditions()
    noisy, timestep = torch.randn(2, 1), torch.tensor([3.0, 9.0])
    result = Guided(denoiser, own, null, scale)(noisy, timestep)
    assert calls == [2]
    assert torch.equal(result, denoiser(noisy, timestep, own))
    calls.clear()
    assert torch.equal(Guided(denoiser, None, None, 4.0)(noisy, timestep), denoiser(noisy, timestep, None))
    assert calls == [2, 2]


def test_rescaled_guidance_is_that_of_diffusers():
    from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import rescale_noise_cfg

    own, null = conditions()
    noisy, timestep = torch.randn(2, 3, 4, 6), torch.tensor([3.0, 9.0])

    def denoiser(noisy, timestep, condition):
        return (noisy * 3 + condition.pooled.view(-1, 3, 1, 1)).sin()

    plain, alone = Guided(denoiser, own, null, 5.0)(noisy, timestep), denoiser(noisy, timestep, own)
    found = Guided(denoiser, own, null, 5.0, rescale=0.7)(noisy, timestep)
    torch.testing.assert_close(found, rescale_noise_cfg(plain, alone, guidance_rescale=0.7))


def test_noise_belongs_to_its_seed():
    together = seeded_noise((2, 3), generators_of([5, 6, 7], stream=0))
    assert together.shape == (3, 2, 3)
    assert torch.equal(seeded_noise((2, 3), generators_of([6], stream=0))[0], together[1])
    assert torch.equal(seeded_noise((2, 3), generators_of([7, 5], stream=0)), together[[2, 0]])
    torch.randn(3)
    assert torch.equal(seeded_noise((2, 3), generators_of([5, 6, 7], stream=0)), together)


def test_no_two_seeds_or_streams_share_noise():
    draws = [seeded_noise((4,), generators_of([seed], stream))[0] for seed in range(20) for stream in (0, 1)]
    assert all(not torch.equal(a, b) for a, b in itertools.combinations(draws, 2))


def test_noise_is_standard_normal():
    noise = seeded_noise((100,), generators_of(range(400), stream=1))
    assert abs(noise.mean()) < 0.02
    assert abs(noise.std() - 1) < 0.02
    across = torch.corrcoef(noise)[~torch.eye(400, dtype=torch.bool)]
    assert abs(across.mean()) < 0.01


@pytest.mark.parametrize("scheduler", [DDIMScheduler, DPMSolverMultistepScheduler, UniPCMultistepScheduler])
@pytest.mark.parametrize("steps", [61, 103])
def test_rounding_takes_no_step_too_many(scheduler, steps):
    """diffusers' trailing timesteps of these numbers go one on, to -1, where DDIM would start again from noise."""
    noise = torch.randn(4000, 1)
    seen = []

    def predict(noisy, timestep):
        seen.extend(timestep.unique().tolist())
        return best_denoiser("epsilon")(noisy, timestep)

    result = sample(predict, scheduler.from_config(Diffusion().scheduler().config), noise, steps)
    assert len(seen) == steps
    assert min(seen) >= 0
    assert_right_distribution(result, noise, 0.03)


class Crossings(TorchDispatchMode):
    """Notes every tensor that goes from one device to another; to read a value of "meta" is an error anyway."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        out = operator(*args, **(kwargs or {}))
        devices = {x.device for x in tree_leaves((args, kwargs, out)) if isinstance(x, torch.Tensor)}
        if len(devices) > 1 and operator.overloadpacket in (torch.ops.aten._to_copy, torch.ops.aten.copy_):
            self.found.append(operator)
        return out


@pytest.mark.parametrize(
    "scheduler",
    [
        *(solver("ddim", Diffusion(clip_sample=clip).scheduler()) for clip in (False, True)),
        *(solver("dpm++", Diffusion("v_prediction", clip_sample=clip).scheduler()) for clip in (False, True)),
        FlowMatching(3.0).scheduler(),
        EulerDiscreteScheduler.from_config(Diffusion().scheduler().config),
    ],
)
def test_no_step_waits_for_the_device(scheduler):
    """Meta tensors stand for those of a GPU: all that goes there is the timesteps, once."""
    own, null = (condition.map(lambda x: x.to("meta")) for condition in conditions())
    predict = Guided(lambda noisy, timestep, _: noisy * timestep.view(-1, 1, 1), own, null, 3.0)
    with Crossings() as crossings:
        result = sample(predict, scheduler, torch.empty(2, 3, 4, device="meta"), 6)
    assert result.device.type == "meta"
    assert len(crossings.found) == 1


def test_autoguidance_leads_away_from_a_worse_model():
    """The weighted sum of two denoisers under the same condition; at scale 1 the worse one is not called."""
    own, worse = 2.0, 0.5
    calls = []

    def weak(noisy, timestep, condition):
        calls.append((noisy, timestep, condition))
        return torch.full_like(noisy, worse)

    def strong(noisy, timestep, condition):
        return torch.full_like(noisy, own) + condition.pooled

    condition, noisy, timestep = Condition(torch.ones(3, 1)), torch.randn(3, 1), torch.full((3,), 7)
    assert autoguided(strong, weak, 1.0) is strong
    assert torch.equal(autoguided(strong, weak, 3.0)(noisy, timestep, condition), torch.full((3, 1), 0.5 + 3 * 2.5))
    assert calls == [(noisy, timestep, condition)]


def test_autoguidance_sharpens_a_blurred_model():
    """The worse model has learned too wide a distribution; guidance away from it narrows that of the samples."""

    def of_width(std):
        def predict(noisy, timestep, condition):
            a = KEPT[timestep.long()].view(-1, 1)
            return (1 - a).sqrt() * (noisy - a.sqrt() * MEAN) / (a * std**2 + 1 - a)

        return predict

    noise = torch.randn(2000, 1)
    widths = {}
    for scale in (1.0, 2.0):
        denoiser = autoguided(of_width(STD), of_width(2 * STD), scale)
        result = sample(lambda x, t, net=denoiser: net(x, t, None), Diffusion().scheduler(), noise, 50)
        widths[scale] = result.std().item()
        assert abs(result.mean().item() - MEAN) < 0.03
    assert widths[1.0] == pytest.approx(STD, abs=0.03)
    assert widths[2.0] < 0.8 * STD
