"""Clips in an array, memory-mapped."""

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cmd_lightning.errors import InputError
from cmd_lightning.evaluation.clip_files import Clips, OpenClip

ARRAY_SUFFIXES = (".npy", ".pt", ".pth")
LAYOUTS = ("NTHWC", "NCTHW", "NTCHW")
_TYPES = ("uint8", "float16", "bfloat16", "float32", "float64")


class ArrayFile(Clips):
    """Clips in a .npy array or a .pt tensor, memory-mapped: only what is asked for is read. Nothing is unpickled.

    The layout is one of `LAYOUTS`; None finds it by the axis of size 3.
    """

    kind = "array"

    def __init__(self, path: Path, layout: str | None = None) -> None:
        self._path, self.skipped = path, {}
        self._layout = self._find_layout(layout)
        self.keys = [f"{index:06d}" for index in range(len(self._data))]

    def __getstate__(self) -> dict[str, Any]:
        """Without the map, which would be pickled as a whole."""
        return {name: value for name, value in self.__dict__.items() if name != "_data"}

    def title(self, index: int) -> str:
        return f"{self._path} clip {index}"

    def frames(self, index: int) -> int:
        return self._data.shape[self._layout.index("T")]

    def open(self, index: int) -> OpenClip:
        return OpenClip(self.frames(index), 0.0, lambda numbers: self._read(index, numbers))

    def _read(self, index: int, numbers: list[int]) -> Tensor:
        axes = self._layout[1:]
        part = self._data[index][(slice(None),) * axes.index("T") + (numbers,)]
        if not isinstance(part, Tensor):
            part = torch.from_numpy(np.array(part, dtype=part.dtype.newbyteorder("=")))
        video = part.permute([axes.index(axis) for axis in "CTHW"]).contiguous()
        if video.dtype == torch.uint8:
            return video
        if video.isnan().any():
            raise InputError(f"{self.title(index)}: holds NaN; leave it out or repair what made it")
        low, high = video.min().item(), video.max().item()
        if low < -1e-5 or high > 1 + 1e-5:  # more than rounding explains
            raise InputError(f"{self.title(index)}: from {low:g} to {high:g}; give float in [0, 1], or uint8")
        return video.float().clamp_(0, 1)

    @cached_property
    def _data(self) -> Any:
        try:
            if self._path.suffix == ".npy":
                return np.load(self._path, mmap_mode="r", allow_pickle=False)
            data = torch.load(self._path, map_location="cpu", mmap=True, weights_only=True)
        except Exception as error:  # damage and pickled objects raise many types
            save = "numpy.save" if self._path.suffix == ".npy" else "torch.save"
            raise InputError(f"{self._path}: not readable; write one array of clips with {save}") from error
        if not isinstance(data, Tensor):
            raise InputError(f"{self._path}: holds a {type(data).__name__}; save the tensor of clips alone")
        return data.detach()

    def _find_layout(self, layout: str | None) -> str:
        shape = tuple(self._data.shape)
        what = f"{self._path} of shape {shape}"
        dtype = getattr(self._data.dtype, "name", None) or str(self._data.dtype).removeprefix("torch.")
        if dtype not in _TYPES:
            raise InputError(f"{self._path} of {dtype}: give uint8, or float in [0, 1]")
        if len(shape) != 5:
            raise InputError(f"{what}: clips have five axes; give {', '.join(LAYOUTS)}")
        found = [axes for axes in LAYOUTS if shape[axes.index("C")] == 3]
        if layout in found or (layout is None and len(found) == 1):
            return layout or found[0]
        if layout is None and found:
            choices = " or ".join(f'"{axes}"' for axes in found)
            raise InputError(f"{what}: several axes could be the channels; give layout={choices}")
        problem = f"no axis of 3 channels{f' in layout {layout}' if layout else ''}"
        raise InputError(
            f"{what}: {problem}; give RGB clips: repeat a grey channel three times, drop the alpha channel"
        )
