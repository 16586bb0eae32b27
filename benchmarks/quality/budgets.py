"""The compute budgets for training a system."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Budget:
    """What a system may spend on training, all stages together.

    Attributes:
        kind: CPU seconds, multiply-adds, or clips that a step is trained on.
        amount: How many.
    """

    kind: Literal["seconds", "macs", "samples"]
    amount: float
