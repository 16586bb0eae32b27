"""Learning-rate schedules with warm-up, stepped after each optimiser step."""

from __future__ import annotations

import math
from typing import Literal

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from cmd_lightning.errors import InputError


class WarmupSchedule(LambdaLR):
    """Linear warm-up, then constant (as in the paper) or a cosine decay to zero.

    Args:
        optimizer: The optimiser; its learning rate is the peak.
        warmup_steps: Optimiser steps from zero to the peak.
        total_steps: Length of the cosine, warm-up included; needed for "cosine" only.
        decay: What follows the warm-up.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        warmup_steps: int = 0,
        total_steps: int | None = None,
        decay: Literal["constant", "cosine"] = "constant",
    ) -> None:
        if decay == "cosine" and total_steps is None:
            raise InputError("schedule.decay cosine: it needs schedule.total_steps; give the number of optimiser steps")

        length = total_steps or 0

        def factor(step: int) -> float:
            warmup = min(1.0, (step + 1) / (warmup_steps + 1))
            if decay == "constant":
                return warmup
            progress = (step - warmup_steps) / max(1, length - warmup_steps)
            return warmup * 0.5 * (1 + math.cos(math.pi * min(1.0, max(0.0, progress))))

        super().__init__(optimizer, factor)
