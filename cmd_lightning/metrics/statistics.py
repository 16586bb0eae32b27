"""Saved statistics: what metrics know of real clips, in a file that refuses to be compared with what differs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from cmd_lightning.errors import InputError
from cmd_lightning.metrics.feature_metric import FeatureDistance

FORMAT = "cmd-lightning video statistics 1"


def save_statistics(
    path: str | Path,
    metrics: Mapping[str, FeatureDistance],
    protocol: Mapping[str, Any],
    about: Mapping[str, Any] | None = None,
) -> None:
    """Write what metrics know of the real clips to a safetensors file. To be called on every process; one writes.

    Args:
        path: Of the file.
        metrics: Distances by the names under which they will be loaded.
        protocol: How clips were read, plain data: frames, stride or fps, size, ... Whoever loads must say the same.
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
    if torch.distributed.is_initialized() and torch.distributed.get_rank():
        return
    facts = {
        "protocol": whole_protocol(metrics, protocol),
        "clip_shape": {name: metric.clip_shape for name, metric in metrics.items()},
        "about": dict(about or {}),
    }
    save_file(tensors, path, {"format": FORMAT} | {name: json.dumps(value) for name, value in facts.items()})


def load_statistics(
    path: str | Path, metrics: Mapping[str, FeatureDistance], protocol: Mapping[str, Any]
) -> dict[str, Any]:
    """Give metrics the real clips of a file, in place of those they may have. To be called on every process.

    Args:
        path: Of a file that `save_statistics` wrote.
        metrics: Distances by the names that they were saved under.
        protocol: As of `save_statistics`.

    Returns:
        What was saved about the clips.

    Raises:
        InputError: It is no such file, holds not all of the metrics, or its clips or networks were treated otherwise.
    """
    try:
        with safe_open(path, "pt") as file:
            facts = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if facts.pop("format", None) != FORMAT:
            raise ValueError("its metadata say something else")
        saved = {name: json.loads(text) for name, text in facts.items()}
    except (OSError, SafetensorError, ValueError) as error:
        problem = str(error).splitlines()[0]
        raise InputError(
            f"statistics {path}: no statistics of real clips ({problem}); give a file that --save-statistics wrote"
        ) from error
    missing = [name for name in metrics if name not in saved["clip_shape"]]
    if missing:
        names = ", ".join(saved["clip_shape"])
        raise InputError(f"statistics {path}: it is of {names}, not of {', '.join(missing)}; save it with these too")
    held = {name: part for name, part in saved["protocol"].items() if name == "clips" or name in metrics}
    difference = first_difference(held, whole_protocol(metrics, protocol))
    if difference:
        raise InputError(f"statistics {path}: {difference}; evaluate in the same way, or save statistics anew")
    # States are summed or joined over processes, so one of them has it all.
    first = not (torch.distributed.is_initialized() and torch.distributed.get_rank())
    for name, metric in metrics.items():
        for state in metric.real_states():
            tensor = tensors[f"{name}/{state}"].to(metric.device)
            tensor = tensor if first else tensor[:0] if state == "real_features" else torch.zeros_like(tensor)
            setattr(metric, state, [tensor] if state == "real_features" else tensor)
        metric.clip_shape = tuple(saved["clip_shape"][name])
    return saved["about"]


def whole_protocol(metrics: Mapping[str, FeatureDistance], protocol: Mapping[str, Any]) -> dict[str, Any]:
    """How clips are read, and what the network of each metric is: not the name of its file, but its sha256."""
    whole: dict[str, Any] = {"clips": dict(protocol)}
    for name, metric in metrics.items():
        origin = getattr(metric.feature, "origin", {"network": type(metric.feature).__name__})
        features = {key: value for key, value in origin.items() if key not in ("weights", "warning")}
        whole[name] = {"features": features, "states": sorted(metric.real_states())}
    return json.loads(json.dumps(whole))


def first_difference(saved: Any, asked: Any, path: str = "") -> str | None:
    """Where two trees of plain data differ, for people; None where they do not."""
    if isinstance(saved, dict) and isinstance(asked, dict):
        found = (first_difference(saved.get(key), asked.get(key), f"{path} {key}") for key in sorted(saved | asked))
        return next(filter(None, found), None)
    return None if saved == asked else f"{path.strip()}: saved with {saved}, asked with {asked}"
