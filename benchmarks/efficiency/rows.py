"""The rows of all efficiency results, and the paper's figures for them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.reported import Figure, figures

Row = Mapping[str, Any]

FIELDS = (
    *("system", "component", "resolution", "frames", "steps", "batch", "guidance", "compiled", "dtype", "decoder"),
    *("params", "tmacs", "tmacs_paper", "seconds", "memory_gb", "reported", "device", "versions", "date"),
    *("extrapolated", "rounds"),
)
"""Fields of every row, null if they do not apply.

`component` is "video" for the whole of a sample, "step" for one step of all denoisers, else a network: "denoiser",
"content", "motion", "autoencoder", "frame decoder". Of a network, `steps` null is one call. `tmacs` has all
multiply-adds, in T, of the videos of a batch; `tmacs_paper` is the paper's counting. `decoder` is that of frames:
"none", "full" (Stable Diffusion's, or LTX-Video's own), "tiny". `seconds` null with a device: out of memory.
"""
NONE = "none"
"""Frame decoder of a sample that ends with latents."""
RESOLUTIONS = {"8": "512x512", "9": "512x1024", "text": "512x1024"}
"""Clip sizes of the paper's tables of training steps and of sampling; table 10 is for all sizes."""


def row(published: bool = True, **known: Any) -> dict[str, Any]:
    """A row in the order of `FIELDS`, with what the paper reports of it where the networks are of published sizes."""
    assert known.keys() <= set(FIELDS), known.keys() - set(FIELDS)
    found = {field: known.get(field) for field in FIELDS}
    return found | {"reported": (published and reported(found)) or None}


def wanted(figure: Figure) -> dict[str, Any]:
    """The fields of a row that is of the same as a figure of tables 8 (forward passes), 9, 10 or the text."""
    found = {"system": figure.system, **figure.at}
    if figure.table == "8":
        component = {"diffusion": "denoiser"}.get(figure.at["component"], figure.at["component"])
        found |= {"component": component, "steps": None, "seconds": None}  # counted, not timed
    else:
        found |= {"component": "video", "guidance": False, "decoder": NONE}
    return found | ({"resolution": RESOLUTIONS[figure.table]} if figure.table in RESOLUTIONS else {})


def fits(row: Row, wanted: Mapping[str, Any]) -> bool:
    """Whether a row has the wanted values."""
    return all(row.get(key) == value for key, value in wanted.items())


def in_rows(figure: Figure) -> float:
    """The value of a figure in the unit of the rows."""
    return figure.value * {"B": 1e9}.get(figure.unit, 1)


def paper(row: Row, key: str) -> float | None:
    """What the paper reports of a row, where the row says."""
    return (row["reported"] or {}).get(key)


def reported(row: Row) -> dict[str, float]:
    """What the paper reports of a row, by field.

    Of a video its tables 9 and 10 (parameters of all networks), of a network's call the counts of its table 8, or of
    a lone denoiser's at the resolution of table 9 that table's by the step.
    """
    system = row["system"]
    known = [*figures(10, system), *figures(9, system), *figures(8, system, "tmacs_paper")]
    found = {figure.quantity: in_rows(figure) for figure in known if fits(row, wanted(figure))}
    call = {"component": "denoiser", "resolution": RESOLUTIONS["9"], "steps": None, "seconds": None}
    if fits(row, call):
        for figure in figures(9, system, "tmacs_paper", steps=50):
            found[figure.quantity] = round(figure.value / figure.at["steps"], 2)
    return found
