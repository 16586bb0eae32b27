"""Where the time of a step goes, by torch's profiler: what explains how well a system uses the device."""

from __future__ import annotations

from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.cells import Cell, cleared
from benchmarks.efficiency.timing import Settings, run_of
from cmd_lightning.markdown import table
from cmd_lightning.threads import one_thread

STEPS = 3
"""That are profiled, of each denoiser."""
TOP = 6
"""Operators that are shown of each system."""


def operators(settings: Settings, cell: Cell, name: str) -> list[dict[str, Any]]:
    """Operators of a few steps and the autoencoder of a system, by the time they took themselves.

    Returns:
        For each operator its name, its share of the time of all, and how often it was called, the longest first.
    """
    cuda = settings.device == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    with cleared(torch.device(settings.device)), one_thread(), torch.no_grad():
        run = run_of(settings, cell, name)
        with profile(activities=activities) as watched:
            run.sample(STEPS)
    events = watched.key_averages()
    times = {event.key: event.self_device_time_total if cuda else event.self_cpu_time_total for event in events}
    whole = sum(times.values())
    found = [{"operator": one.key, "share": times[one.key] / whole, "calls": one.count} for one in events]
    return sorted(found, key=lambda one: -one["share"])


def profile_table(settings: Settings, cell: Cell) -> str:
    """The operators that take most of a step, of every system."""
    lines = []
    for name in settings.systems:
        found = operators(settings, cell, name)
        longest = [f"{one['operator'].removeprefix('aten::')} {100 * one['share']:.0f} %" for one in found[:TOP]]
        lines.append((name, sum(one["calls"] for one in found), ", ".join(longest)))
    return table(("system", f"operators in {STEPS} steps", "share of their time"), lines)
