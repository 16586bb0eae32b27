"""Options of the optimiser that were changed in the config since the checkpoint that training resumes from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

APPLIED = ("weight_decay", "betas", "eps", "momentum", "dampening", "nesterov", "alpha", "rho")
"""Options, besides the learning rate, that are read in each step and do not affect an optimiser's state."""

HOW = ("params", "foreach", "fused", "capturable", "differentiable")
"""Options that change how an optimiser computes, but not its results."""


def options_of(optimizer: Optimizer) -> list[dict[str, Any]]:
    """The options of each group of weights, with the learning rate as given, before any schedule."""
    groups = []
    for group in optimizer.param_groups:
        own = {name: value for name, value in group.items() if name not in (*HOW, "initial_lr")}
        groups.append(own | {"lr": group.get("initial_lr", group["lr"])})
    return groups


def apply_changes(
    optimizer: Optimizer, wanted: Sequence[Mapping[str, Any]], schedules: Sequence[LRScheduler] = ()
) -> list[str]:
    """Sets the options of the config in an optimiser that was restored from a checkpoint.

    Args:
        optimizer: The optimiser as restored; its learning rate is that of its schedule.
        wanted: The options of each of its groups, from `options_of` before it was restored.
        schedules: The schedules of its learning rate, as restored.

    Returns:
        A sentence for each option that differs.
    """
    changes = []
    restored = options_of(optimizer)
    for index, (group, before, now) in enumerate(zip(optimizer.param_groups, restored, wanted, strict=True)):
        for name in before.keys() & now.keys():
            if plain(before[name]) == plain(now[name]):
                continue
            change = f"model.optimizer.{name} {plain(now[name])}: the checkpoint was trained with {plain(before[name])}"
            if name == "lr":
                change_rate(group, index, before[name], now[name], schedules)
            elif name in APPLIED:
                group[name] = now[name]
            else:
                changes.append(f"{change}, which is kept; start a new run to change it")
                continue
            changes.append(f"{change}; the new value is used from here on")
    return sorted(set(changes))


def change_rate(group: dict[str, Any], index: int, before: Any, now: Any, schedules: Sequence[LRScheduler]) -> None:
    """Changes the peak learning rate of a group, at the same position in its schedules."""
    factor = float(group["lr"]) / float(before) if before else 1.0
    if hasattr(group["lr"], "fill_"):  # a tensor, whose address compiled code may hold
        group["lr"].fill_(float(now) * factor)
    else:
        group["lr"] = now * factor
    if "initial_lr" in group:
        group["initial_lr"] = now
    for schedule in schedules:
        schedule.base_lrs[index] = now


def plain(value: Any) -> Any:
    """A value as plain Python, to compare and print."""
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return float(value) if hasattr(value, "item") else value
