"""Saved statistics of real clips, in a file that is rejected if the clips of a metric are prepared in another way."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from cmd_lightning.atomic_files import replaced
from cmd_lightning.errors import InputError, reason
from cmd_lightning.metrics.feature_metric import FeatureDistance

FORMAT = "cmd-lightning video statistics 1"


def save_statistics(
    path: str | Path,
    metrics: Mapping[str, FeatureDistance],
    reading: Mapping[str, Any],
    about: Mapping[str, Any] | None = None,
) -> None:
    """Write what distances know of the real clips to a safetensors file. To be called on every process; one writes.

    Args:
        path: Of the file.
        metrics: Distances by the names under which they will be loaded.
        reading: How clips were read, plain data: frames, stride or fps, size. Whoever loads must say the same.
        about: Further plain data that need not be the same, as where the clips are from.

    Raises:
        InputError: There are fewer than two real clips.
    """
    tensors: dict[str, Tensor] = {}
    for name, metric in metrics.items():
        with metric.sync_context():
            if metric.counts()[0] < 2:
                raise InputError(f"statistics {path}: {metric.counts()[0]} real clips; give at least two")
            for state, value in metric.real_states().items():
                value = metric.kept_features()[0] if state == "real_features" else value
                tensors[f"{name}/{state}"] = value.cpu().contiguous()
    if not is_first():
        return
    facts = {
        "treatment": treatment(metrics, reading),
        "clip_shape": {name: metric.clip_shape for name, metric in metrics.items()},
        "about": dict(about or {}),
    }
    with replaced(Path(path)) as draft:
        save_file(tensors, draft, {"format": FORMAT} | {name: json.dumps(value) for name, value in facts.items()})


def load_statistics(path: str | Path, metrics: Mapping[str, FeatureDistance], reading: Mapping[str, Any]) -> None:
    """Give distances the real clips of a file, in place of those they may have. To be called on every process.

    Args:
        path: Of a file that `save_statistics` wrote.
        metrics: Distances by the names that they were saved under.
        reading: As of `save_statistics`.

    Raises:
        InputError: It is no such file, holds not all of the distances, or its clips were read otherwise or seen by
            other networks.
    """
    facts, tensors = _open(path)
    missing = [name for name in metrics if name not in facts["clip_shape"]]
    if missing:
        names = ", ".join(facts["clip_shape"])
        raise InputError(f"statistics {path}: it is of {names}, not of {', '.join(missing)}; save it with these too")
    held = {name: part for name, part in facts["treatment"].items() if name == "clips" or name in metrics}
    difference = first_difference(held, treatment(metrics, reading))
    if difference:
        raise InputError(f"statistics {path}: {difference}; evaluate in the same way, or save statistics again")
    for name, metric in metrics.items():
        for state in metric.real_states():
            tensor = tensors[f"{name}/{state}"].to(metric.device)
            if not is_first():  # states are summed or joined over processes, so one of them has it all
                tensor = tensor[:0] if state == "real_features" else torch.zeros_like(tensor)
            setattr(metric, state, [tensor] if state == "real_features" else tensor)
        metric.expect_shape(tuple(facts["clip_shape"][name]))


def describe_statistics(path: str | Path) -> dict[str, Any]:
    """What was saved about the clips.

    Raises:
        InputError: It is not a file of statistics.
    """
    return _open(path)[0]["about"]


def _open(path: str | Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        with safe_open(path, "pt") as file:
            facts = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if facts.pop("format", None) != FORMAT:
            raise ValueError("its metadata say something else")
        return {name: json.loads(text) for name, text in facts.items()}, tensors
    except (OSError, SafetensorError, ValueError) as error:
        remedy = "give a file that `save_statistics` wrote"
        raise InputError(f"statistics {path}: no statistics of real clips ({reason(error)}); {remedy}") from error


def is_first() -> bool:
    """Whether this is the only process, or the first of several."""
    return not (torch.distributed.is_initialized() and torch.distributed.get_rank())


def treatment(metrics: Mapping[str, FeatureDistance], reading: Mapping[str, Any]) -> dict[str, Any]:
    """What must be the same: how clips are read, and what network sees them, whatever its file is called."""
    whole: dict[str, Any] = {"clips": dict(reading)}
    for name, metric in metrics.items():
        features = {key: value for key, value in metric.origin.items() if key not in ("weights", "warning")}
        if "protocol" in features:
            features["protocol"] = {key: value for key, value in features["protocol"].items() if key != "name"}
        whole[name] = {"features": features, "kept": "features" if metric.keep_features else "sums"}
    return json.loads(json.dumps(whole))


def first_difference(saved: Any, asked: Any, path: str = "") -> str | None:
    """Where two trees of plain data differ, for people; None where they do not."""
    if isinstance(saved, dict) and isinstance(asked, dict):
        found = (first_difference(saved.get(key), asked.get(key), f"{path} {key}") for key in sorted(saved | asked))
        return next(filter(None, found), None)
    return None if saved == asked else f"{path.strip()}: saved with {saved}, asked with {asked}"
