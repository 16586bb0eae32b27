"""A student overfits a toy teacher: one step reaches what took many."""

import copy

import pytest
import torch

from cmd_lightning.diffusion import FlowMatching
from cmd_lightning.diffusion.consistency import LatentConsistency, jump, trajectory
from cmd_lightning.networks import LatentSpec
from cmd_lightning.zoo.autoencoders.grid import GridAutoencoder
from cmd_lightning.zoo.content.dit import ContentDiT

OBJECTIVE = FlowMatching()
IMAGES = torch.stack([torch.full((3, 4, 4), -0.8), torch.full((3, 4, 4), 0.8)])
"""Without a condition: the noise decides which of the two a sample becomes."""


def learn(network, loss, rate, steps):
    """Trains on random ones of the two images."""
    optimizer = torch.optim.Adam(network.parameters(), lr=rate)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = rate * min(1, (step + 1) / 20) * (1 - step / steps)
        clean = IMAGES[torch.randint(0, 2, (32,))]
        optimizer.zero_grad()
        loss(clean, torch.randn_like(clean)).mean().backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()


def function(network):
    return lambda noisy, timestep: network(noisy, timestep, None)


def error(network, passed, end):
    """Mean squared distance between where jumps from pure noise and the teacher's trajectories end."""
    timestep, noise = passed[0]
    with torch.no_grad():
        return (jump(OBJECTIVE, function(network), noise, timestep) - end).square().mean().item()


@pytest.mark.slow
def test_a_student_reaches_in_one_step_what_its_teacher_needs_many_for():
    torch.manual_seed(0)
    teacher = ContentDiT(spec(), 0, width=64, depth=1, heads=2, patch_size=4)

    def denoise(clean, noise):
        timestep = OBJECTIVE.timesteps(torch.rand(len(clean)))
        prediction = teacher(OBJECTIVE.corrupt(clean, noise, timestep), timestep, None)
        return OBJECTIVE.loss(prediction, clean, noise, timestep)

    learn(teacher, denoise, 4e-3, 400)
    with torch.no_grad():
        *passed, (_, end) = trajectory(OBJECTIVE, function(teacher), torch.randn(256, 3, 4, 4), 50)
    nearest = (end[:, None] - IMAGES).square().flatten(2).mean(2)
    assert nearest.min(1).values.mean() < 0.05 and 64 < nearest.argmin(1).sum() < 192  # it has learned both

    student, method = copy.deepcopy(teacher), LatentConsistency(intervals=20)
    torch.manual_seed(1)
    learn(
        student,
        lambda clean, noise: method.loss(
            OBJECTIVE, function(student), function(teacher), clean, noise, torch.rand(len(clean))
        ),
        5e-4,
        400,
    )
    errors = error(teacher, passed, end), error(student, passed, end)
    print("one step: teacher {:.3f}, student {:.3f}".format(*errors))  # 0.392 and 0.072
    assert errors[1] < 0.35 * errors[0]


def spec() -> LatentSpec:
    """Of clips of 4x4 pixels."""
    sizes = {"patch_size": 4, "width": 16, "motion_channels": 2, "depth": 1, "heads": 2, "head_dim": 8}
    return GridAutoencoder(**sizes, weights="first", grid=(1, 1)).latent_spec((3, 2, 4, 4))
