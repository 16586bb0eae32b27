"""The solvers of the diffusion equation by the names of their field, with the settings of a model's own scheduler."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diffusers.configuration_utils import ConfigMixin
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from diffusers.schedulers.scheduling_flow_match_lcm import FlowMatchLCMScheduler
from diffusers.schedulers.scheduling_lcm import LCMScheduler
from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler

from cmd_lightning.diffusion.objectives import flow_shift
from cmd_lightning.diffusion.sampling import Scheduler
from cmd_lightning.errors import InputError

SOLVERS: Mapping[str, type[ConfigMixin]] = {
    "ddim": DDIMScheduler,
    "dpm++": DPMSolverMultistepScheduler,
    "unipc": UniPCMultistepScheduler,
    "lcm": LCMScheduler,
}
"""DDIM (arXiv 2010.02502); DPM-Solver++ (2211.01095) and UniPC (2302.04867), both of second order; LCM (2310.04378).

LCM is for students of `Distillation` and adapters of their kind: it jumps to a clean sample and adds new noise.
"""


def solver(name: str, scheduler: Scheduler) -> Scheduler:
    """The solver `name` for a model that was trained for `scheduler`, with its noise schedule, prediction and spacing.

    Where the scheduler clips what it takes for the clean sample, so does the solver. Those of high order have no such
    setting, but dynamic thresholding that may not exceed the range is the same.

    Raises:
        InputError: There is no such solver, or it does not fit the scheduler.
    """
    if name not in SOLVERS:
        raise InputError(f"solver {name}: choose {', '.join(SOLVERS)}")
    config, kind = scheduler.config, SOLVERS[name]
    shift = flow_shift(config)
    if shift is not None:
        return flow_solver(name, shift, config["num_train_timesteps"])
    if "beta_schedule" not in config:
        raise InputError(
            f"solver {name}: this model's {type(scheduler).__name__} has neither a noise schedule by name nor a fixed "
            "shift; leave it out"
        )
    changes = {}
    if config.get("clip_sample") and kind not in (DDIMScheduler, LCMScheduler):
        if config.get("clip_sample_range", 1.0) != 1.0:
            raise InputError(f"solver {name}: it clips to 1, the model to {config.clip_sample_range}; leave it out")
        changes = {"thresholding": True, "sample_max_value": 1.0}
    return kind.from_config(config, **changes)


def flow_solver(name: str, shift: float, num_train_timesteps: int) -> Scheduler:
    """The solver `name` for a model of flow matching; `ddim` is Euler's method there."""
    length = {"num_train_timesteps": num_train_timesteps}
    if name in ("ddim", "lcm"):
        flow_kind: Any = {"ddim": FlowMatchEulerDiscreteScheduler, "lcm": FlowMatchLCMScheduler}[name]
        return flow_kind(**length, shift=shift)
    kind: Any = SOLVERS[name]
    return kind(**length, prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift)
