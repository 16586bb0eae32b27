"""Consistency distillation: a student learns to jump in one step to where its teacher's solver ends."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from cmd_lightning.diffusion.objectives import Objective
from cmd_lightning.errors import InputError, check_positive

Predict = Callable[[Tensor, Tensor], Tensor]
"""A network's prediction from `(noisy, timestep (B,))`, its condition put in, as `Guided` has it."""


def jump(objective: Objective, predict: Predict, noisy: Tensor, timestep: Tensor) -> Tensor:
    """The clean sample that a network reaches from `noisy` `(B, ...)` in one step; at timestep 0 `noisy` itself."""
    clean, _ = objective.split(predict(noisy, timestep), noisy, timestep)
    return objective.anchored(clean, noisy, timestep)


def trajectory(objective: Objective, predict: Predict, noise: Tensor, steps: int) -> list[tuple[Tensor, Tensor]]:
    """The samples that DDIM, or for flow matching Euler's method, passes on its way from `noise` `(B, ...)`.

    Returns:
        `steps` pairs of a timestep `(B,)` and the noisy sample there, and the clean sample that they lead to as the
        last, at timestep 0.
    """
    ladder = objective.ladder(steps).to(noise.device).flip(0)
    passed = [(ladder[:1].expand(len(noise)), noise)]
    for rung in ladder[1:]:
        timestep, noisy = passed[-1]
        parts = objective.split(predict(noisy, timestep), noisy, timestep)
        reached = rung.expand(len(noise))
        passed.append((reached, objective.corrupt(*parts, reached)))
    return passed


class Consistency(ABC):
    """A way to teach a student, whose own prediction is the only one that gradients flow through."""

    @abstractmethod
    def loss(
        self,
        objective: Objective,
        student: Predict,
        teacher: Predict,
        clean: Tensor,
        noise: Tensor,
        quantile: Tensor,
    ) -> Tensor:
        """The loss of each sample, `(B,)`, in float32.

        Args:
            objective: What both networks predict.
            student: The student.
            teacher: The teacher, guided; it is called without gradients.
            clean: Clean samples, `(B, ...)`.
            noise: Standard normal, in the same shape.
            quantile: Where in the schedule, in [0, 1), `(B,)`.
        """

    def plain(self) -> dict[str, Any]:
        """This as plain data, for a checkpoint; see `method_of`."""
        return {"name": type(self).__name__} | asdict(self)  # type: ignore[call-overload]  # both are dataclasses


@dataclass(frozen=True)
class LatentConsistency(Consistency):
    """Latent consistency distillation (arXiv 2310.04378): two neighbours on a trajectory shall lead to one sample.

    The teacher's solver goes from a timestep of the ladder to the one below, which skips those between. The student
    has to jump from both to the same sample; the lower jump, without gradients, is the target. There is no averaged
    target network (arXiv 2310.14189).

    Args:
        intervals: Steps of the ladder: of 1000 timesteps, 50 skip 20 each time, as in the paper.
        huber: Size of an error from which the loss grows linearly, as in the authors' code.
    """

    intervals: int = 50
    huber: float = 1e-3

    def __post_init__(self) -> None:
        check_positive(**{"model.method.intervals": self.intervals})
        if self.huber <= 0:
            raise InputError(f"model.method.huber {self.huber}: give a number above 0")

    def loss(
        self,
        objective: Objective,
        student: Predict,
        teacher: Predict,
        clean: Tensor,
        noise: Tensor,
        quantile: Tensor,
    ) -> Tensor:
        ladder = objective.ladder(self.intervals).to(clean.device)
        rung = 1 + (quantile * self.intervals).long()
        upper, lower = ladder[rung], ladder[rung - 1]
        noisy = objective.corrupt(clean, noise, upper)
        jumped = jump(objective, student, noisy, upper).float()
        with torch.no_grad():
            below = objective.corrupt(*objective.split(teacher(noisy, upper), noisy, upper), lower)
            target = jump(objective, student, below, lower).float()
        error = ((jumped - target).square() + self.huber**2).sqrt() - self.huber
        return error.flatten(1).mean(1)


@dataclass(frozen=True)
class ContinuousConsistency(Consistency):
    """Consistency distillation in continuous time (sCM, arXiv 2410.11081): the jump shall not change on a trajectory.

    The slope of the student's jump along the teacher's trajectory is measured, normalised, and taken off the jump. It
    is a central difference over a short window (as in arXiv 2509.04394), not a forward-mode derivative: networks that
    embed timesteps of 0 to 1000 change in fast waves with them, which dominate the derivative, and every attention,
    compiled or sharded network can do it. Not of sCM: its angular parametrisation, which changes no jump, and its
    learned weighting.

    Args:
        window: Half the width of the window, as a share of the schedule.
        damping: Added to the size of the slope where this is normalised: 0.1 in sCM.
    """

    window: float = 0.01
    damping: float = 0.1

    def __post_init__(self) -> None:
        if not 0 < self.window < 0.5:
            raise InputError(f"model.method.window {self.window}: give a share of the schedule between 0 and 0.5")
        if self.damping <= 0:
            raise InputError(f"model.method.damping {self.damping}: give a number above 0")

    def loss(
        self,
        objective: Objective,
        student: Predict,
        teacher: Predict,
        clean: Tensor,
        noise: Tensor,
        quantile: Tensor,
    ) -> Tensor:
        first, last = objective.ladder(1).to(clean.device)
        timestep = objective.at(1 - quantile).clamp_max(last)  # 1 - quantile reaches 1: pure noise, as sampling begins
        half = max(1, round(self.window * objective.num_train_timesteps))
        above, below = (timestep + half).clamp_max(last), (timestep - half).clamp_min(first)
        noisy = objective.corrupt(clean, noise, timestep)
        jumped = jump(objective, student, noisy, timestep).float()
        with torch.no_grad():
            parts = objective.split(teacher(noisy, timestep), noisy, timestep)
            ends = [jump(objective, student, objective.corrupt(*parts, end), end).float() for end in (above, below)]
            width = (above - below).float() / objective.num_train_timesteps
            slope = (ends[0] - ends[1]).flatten(1) / width[:, None]
            size = slope.square().mean(1, keepdim=True).sqrt()
            target = jumped.flatten(1) - slope / (size + self.damping)
        return (jumped.flatten(1) - target).square().mean(1)


def method_of(plain: dict[str, Any]) -> Consistency:
    """The method that `Consistency.plain` described."""
    kinds = {kind.__name__: kind for kind in (LatentConsistency, ContinuousConsistency)}
    return kinds[plain["name"]](**{name: value for name, value in plain.items() if name != "name"})
