"""Every scheduler of diffusers that a user may assign; a video depends only on its seed, with any scheduler."""

import diffusers
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, EulerAncestralDiscreteScheduler, LCMScheduler

from cmd_lightning.diffusion import Diffusion, FlowMatching
from cmd_lightning.diffusion.sampling import generators_of, sample, seeded_noise

DIFFUSION = sorted(
    kind.__name__
    for kind in DDIMScheduler.from_config(Diffusion().scheduler().config).compatibles
    if kind.__name__ != "DPMSolverSDEScheduler" and "dummy" not in kind.__module__
)
"""Those that diffusers itself calls interchangeable and can import; the one left out draws for a batch as a whole."""
FLOWS = [
    (diffusers.FlowMatchEulerDiscreteScheduler, {"stochastic_sampling": True}),
    (diffusers.FlowMatchHeunDiscreteScheduler, {}),
    (diffusers.FlowMatchLCMScheduler, {}),
]
STOCHASTIC = {
    "DPMSolverMultistepScheduler": {"algorithm_type": "sde-dpmsolver++"},
    "EulerDiscreteScheduler": {},
}
"""Settings in which a scheduler draws noise."""


def toy(noisy, timestep):
    """A denoiser without parameters."""
    return (noisy + timestep.view(-1, 1, 1, 1) / 1000).sin()


def assert_belongs_to_its_seed(scheduler):
    """Of a batch, each sample is that of its seed alone, whatever torch's own generator did."""

    def run(seeds):
        generators = generators_of(seeds, stream=0)
        return sample(toy, scheduler, seeded_noise((3, 4, 6), generators), 4, generators)

    together = run([5, 6, 7])
    assert together.isfinite().all()
    torch.manual_seed(1)
    torch.testing.assert_close(run([5, 6, 7]), together)
    torch.testing.assert_close(run([6]), together[1:2], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", DIFFUSION)
def test_schedulers_that_are_interchangeable(name):
    kind = getattr(diffusers, name)
    assert_belongs_to_its_seed(kind.from_config(Diffusion().scheduler().config, **STOCHASTIC.get(name, {})))


@pytest.mark.parametrize(("kind", "settings"), FLOWS)
def test_schedulers_of_flow_matching(kind, settings):
    assert_belongs_to_its_seed(kind.from_config(FlowMatching().scheduler().config, **settings))


@pytest.mark.parametrize("kind", [EulerAncestralDiscreteScheduler, LCMScheduler, DDPMScheduler])
def test_stochastic_schedulers_draw_from_the_seeds(tiny_pipeline, kind):
    """Not the noise that they start from: the same latents with other seeds are another video."""
    pipeline = tiny_pipeline("label")
    for part in ("scheduler", "motion_scheduler"):
        setattr(pipeline, part, kind.from_config(getattr(pipeline, part).config))
    call = {"class_labels": [0, 3], "num_inference_steps": 3, "guidance_scale": 1.5, "output_type": "latent"}
    plain = pipeline(**call, seeds=[5, 6])
    again = pipeline(**call, seeds=[5, 6])
    assert torch.equal(again.frames, plain.frames)
    alone = pipeline(**call | {"class_labels": 3}, seeds=[6])
    torch.testing.assert_close(alone.frames[0], plain.frames[1], atol=1e-3, rtol=1e-3)
    noise = {stage: torch.randn(2, *getattr(pipeline.latent_spec, stage)) for stage in ("content", "motion")}
    first, second = (pipeline(**call, seeds=seeds, latents=noise) for seeds in ([5, 6], [7, 6]))
    assert (first.content[0] - second.content[0]).abs().max() > 1e-2
    torch.testing.assert_close(first.content[1], second.content[1], atol=1e-3, rtol=1e-3)


def test_a_deterministic_scheduler_draws_nothing(tiny_pipeline):
    pipeline = tiny_pipeline(None)
    noise = {stage: torch.randn(1, *getattr(pipeline.latent_spec, stage)) for stage in ("content", "motion")}
    first, second = (pipeline(seeds=[s], latents=noise, num_inference_steps=3, output_type="latent") for s in (1, 2))
    assert torch.equal(first.frames, second.frames)
