"""The solvers of the diffusion equation by the names of their field, with the settings of a model's own scheduler."""

from __future__ import annotations

from collections.abc import Mapping

from diffusers.configuration_utils import ConfigMixin
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler

from cmd_lightning.diffusion.sampling import Scheduler
from cmd_lightning.errors import InputError

SOLVERS: Mapping[str, type[ConfigMixin]] = {
    "ddim": DDIMScheduler,
    "dpm++": DPMSolverMultistepScheduler,
    "unipc": UniPCMultistepScheduler,
}
"""DDIM (arXiv 2010.02502); DPM-Solver++ (2211.01095) and UniPC (2302.04867), both of second order."""


def solver(name: str, scheduler: Scheduler) -> Scheduler:
    """The solver `name` for a model that was trained for `scheduler`, with its noise schedule, prediction and spacing.

    Where the scheduler clips what it takes for the clean sample, so does the solver. Those of high order have no such
    setting, but dynamic thresholding that may not exceed the range is the same.
    """
    if name not in SOLVERS:
        raise InputError(f"solver {name}: choose {', '.join(SOLVERS)}")
    config = scheduler.config
    if "beta_schedule" not in config:
        raise InputError(
            f"solver {name}: this model was trained by flow matching, whose paths are nearly straight, and its own "
            f"{type(scheduler).__name__} follows them; leave it out, and give fewer steps"
        )
    kind = SOLVERS[name]
    changes = {}
    if config.get("clip_sample") and kind is not DDIMScheduler:
        if config.get("clip_sample_range", 1.0) != 1.0:
            raise InputError(f"solver {name}: it clips to 1, the model to {config.clip_sample_range}; leave it out")
        changes = {"thresholding": True, "sample_max_value": 1.0}
    return kind.from_config(config, **changes)
