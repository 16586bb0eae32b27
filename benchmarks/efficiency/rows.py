"""The rows of all efficiency results, and what the paper reports of each."""

from __future__ import annotations

from typing import Any

from benchmarks.reported import figures

FIELDS = (
    *("system", "component", "resolution", "frames", "steps", "batch", "guidance", "compiled", "dtype", "decoder"),
    *("params", "tmacs", "tmacs_paper", "seconds", "memory_gb", "reported", "device", "versions", "date"),
    *("extrapolated", "rounds"),
)
"""Of every row, null where they say nothing.

`component` is "video" for the whole of a sample, "step" for one step of all denoisers, else a network: "denoiser",
"content", "motion", "autoencoder", "frame decoder". Of a network, `steps` null is one call. `tmacs` has all
multiply-adds, in T, of the videos of a batch; `tmacs_paper` is the paper's counting. `decoder` is that of frames:
"none", "full" (Stable Diffusion's, or LTX-Video's own), "tiny". `seconds` null beside a device: memory did not suffice.
"""
TABLE_8, TABLE_9 = "512x512", "512x1024"
"""The resolutions of the paper's tables of training steps and of sampling."""


def row(**known: Any) -> dict[str, Any]:
    """A row in the order of `FIELDS`, with what the paper reports of it."""
    assert known.keys() <= set(FIELDS), known.keys() - set(FIELDS)
    found = {field: known.get(field) for field in FIELDS}
    return found | {"reported": reported(found) or None}


def reported(row: dict[str, Any]) -> dict[str, float]:
    """What the paper reports of a row, by field, in the units of the row.

    Of sampling its table 9, and of a network's call its table 8, or of a lone denoiser table 9's by the step;
    parameters (table 10) are those of all networks.
    """
    system, component, plain = row["system"], row["component"], row["decoder"] in (None, "none") and not row["guidance"]
    counted = row["steps"] is None and row["seconds"] is None
    found = {}
    if component == "video" and plain:
        found = values(10, system)
        if row["resolution"] == TABLE_9:
            found |= values(9, system, steps=row["steps"], batch=row["batch"])
            found |= values(9, system, "memory_gb", batch=row["batch"])
    elif counted and row["resolution"] == TABLE_8:
        found = values(8, system, "tmacs_paper", component={"denoiser": "diffusion"}.get(component, component))
    elif counted and row["resolution"] == TABLE_9 and component == "denoiser":
        found = {key: round(value / 50, 2) for key, value in values(9, system, "tmacs_paper", steps=50).items()}
    return found


def values(table: int, system: str, quantity: str | None = None, **at: Any) -> dict[str, float]:
    """Figures of a table of the paper by quantity; parameters in ones, not B."""
    found = figures(table, system, quantity, **at)
    return {one.quantity: one.value * (1e9 if one.quantity == "params" else 1) for one in found}
