"""Preparation: how clips are brought to what the I3D sees, and how covariances are counted.

Published FVD comes from three lineages of code over one set of weights. Their presets here:

- "stylegan-v" (StyleGAN-V, Latte): whole levels by rounding, stretched to 224x224, batch norm epsilon 1e-3, covariance
  over N.
- "videogpt" (VideoGPT, PVDM, CMD): whole levels by truncation, shorter side to 224 and the centre cut out, batch norm
  epsilon 1e-5, covariance over N - 1. TATS and LVDM stretch instead: "videogpt,resize=stretch".
- "tf" (the original, Unterthiner et al. 2018, arXiv 1812.01717): levels as they are, stretched to 224x224 on the grid
  of TensorFlow 1, batch norm epsilon 1e-3, covariance over N - 1.

All interpolate linearly without antialias, even downwards, and feed [-1, 1].

Deliberately not copied: the matrix root in single precision of the VideoGPT ports (it adds up to 0.9), the root of
singular products by old versions of scipy (it can be anything), clips that count twice to fill up a batch or a set,
and a truncation that truncates rounding errors too (see `prepare`).
"""

from __future__ import annotations

import copy
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args, get_origin, get_type_hints

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cmd_lightning.errors import InputError, nearest
from cmd_lightning.metrics.inputs import check_rgb, unit_range
from cmd_lightning.metrics.torchscript import set_script_eps

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)

ROUNDING = 1e-3
"""Levels by which a whole level may be missed before it counts as a fraction; single precision misses it by 1.5e-5."""


@dataclass(frozen=True)
class Preparation:
    """Settings of the preparation; see `PRESETS`.

    Attributes:
        name: What it is called: a preset, with the knobs set over it.
        resize: "stretch" to side x side; "crop": the shorter side to `side`, then the centre; or "none".
        side: Of what the network sees, in pixels.
        antialias: Whether more than two pixels count for one when frames shrink.
        grid: "half-pixel", or "legacy" as of TensorFlow 1: pixel i is read at i * old / new.
        levels: What of a level of 0 to 255 is kept, before all else: "float" all, "round" the nearest whole one,
            "truncate" the whole one below.
        range: Of the values the network is fed with.
        batch_norm_eps: Of the network's batch norms; None leaves them.
        unbiased: Whether covariances are sums over N - 1, or over N.

    Raises:
        InputError: An invalid value, or two that exclude each other.

    Examples:
        >>> from cmd_lightning.metrics import Preparation
        >>> preparation = Preparation.parse("videogpt,antialias=true")
        >>> preparation.resize, preparation.levels, preparation.antialias, preparation.unbiased
        ('crop', 'truncate', True, True)
    """

    name: str
    resize: Literal["stretch", "crop", "none"] = "stretch"
    side: int = 224
    antialias: bool = False
    grid: Literal["half-pixel", "legacy"] = "half-pixel"
    levels: Literal["float", "round", "truncate"] = "float"
    range: Literal["-1..1", "0..1", "0..255"] = "-1..1"
    batch_norm_eps: float | None = 1e-3
    unbiased: bool = True

    def __post_init__(self) -> None:
        for knob, hint in _knobs().items():
            value = getattr(self, knob)
            if get_origin(hint) is Literal and value not in get_args(hint):
                raise InputError(f"preset {self.name}: {knob}={value}; {nearest(str(value), get_args(hint))}")
        if self.side < 1 or not 0 <= (self.batch_norm_eps or 0) < 1:
            raise InputError(f"preset {self.name}: side is at least 1, batch_norm_eps from 0 to 1 or none")
        if self.antialias and self.grid == "legacy":
            raise InputError(f"preset {self.name}: antialias=true needs grid=half-pixel")

    @classmethod
    def parse(cls, text: str | Preparation) -> Preparation:
        """Read a preset, or one with knobs set over it, as "videogpt,antialias=true,resize=stretch".

        Raises:
            InputError: There is no such preset, knob or value; the message lists those there are.
        """
        if isinstance(text, Preparation):
            return text
        preset, *settings = (part.strip() for part in str(text).split(","))
        if preset not in PRESETS:
            raise InputError(f"preset {preset!r}: no such preset; {nearest(preset, PRESETS)}")
        values = {}
        for setting in settings:
            knob, _, value = (part.strip() for part in setting.partition("="))
            if knob not in _knobs():
                raise InputError(f"preset {text}: {setting!r} sets no knob as knob=value; {nearest(knob, _knobs())}")
            values[knob] = _read(value, _knobs()[knob], f"preset {text}: {knob}={value}")
        return replace(PRESETS[preset], **values, name=",".join([preset, *settings]))


def _knobs() -> dict[str, Any]:
    return {knob: hint for knob, hint in get_type_hints(Preparation).items() if knob != "name"}


def _read(text: str, hint: Any, where: str) -> Any:
    words = {"none": None} if hint == float | None else {"true": True, "false": False} if hint is bool else {}
    if text.lower() in words or hint is bool:
        if text.lower() not in words:
            raise InputError(f"{where}; give true or false")
        return words[text.lower()]
    try:
        return text if get_origin(hint) is Literal else int(text) if hint is int else float(text)
    except ValueError:
        raise InputError(f"{where}; give a {'whole number' if hint is int else 'number, or none'}") from None


PRESETS = {
    "stylegan-v": Preparation("stylegan-v", levels="round", unbiased=False),
    "videogpt": Preparation("videogpt", resize="crop", levels="truncate", batch_norm_eps=1e-5),
    "tf": Preparation("tf", grid="legacy"),
}


def prepare(video: Tensor, preparation: Preparation) -> Tensor:
    """Clips `(B, 3, T, H, W)`, float in [0, 1] or uint8, as float32 `(B, 3, T, h, w)` in `preparation.range`."""
    video = unit_range(video).float()
    check_rgb(video)
    if preparation.levels != "float":
        # Of clips that came by way of [-1, 1], a quarter of the levels returns a hair below the whole one. Truncation
        # is for true fractions: what was uint8 passes unchanged.
        above = 0.5 if preparation.levels == "round" else ROUNDING
        video = (video * 255).add_(above).floor_().div_(255)
    # Before the resize, which is linear, there is less to scale.
    low, high = {"-1..1": (-1, 1), "0..1": (0, 1), "0..255": (0, 255)}[preparation.range]
    return _resize(video * (high - low) + low, preparation)


def set_batch_norm_eps(network: nn.Module, eps: float) -> None:
    """Make all batch norms of a network, in evaluation mode, divide by `√(variance + eps)`, in place.

    A network that says in `batch_norm_eps` that it has this epsilon is left as it is.
    """
    if getattr(network, "batch_norm_eps", None) == eps:
        return
    if isinstance(network, torch.jit.ScriptModule):
        set_script_eps(network, eps)
    elif isinstance(network, BATCH_NORMS):
        network.eps = eps
    else:
        for child in network.children():
            set_batch_norm_eps(child, eps)


def _resize(video: Tensor, preparation: Preparation) -> Tensor:
    side, old = preparation.side, tuple(video.shape[-2:])
    if preparation.resize == "none":
        return video
    new = (side, side)
    if preparation.resize == "crop":
        new = -(-old[0] * side // min(old)), -(-old[1] * side // min(old))  # the longer side rounded up
    if new != old and preparation.grid == "legacy":
        video = _legacy(old[0], new[0]).to(video) @ video @ _legacy(old[1], new[1]).to(video).T
    elif new != old:
        # Channels and frames are resized alike, as a batch of images; this order needs no copy.
        frames = F.interpolate(video.flatten(1, 2), new, mode="bilinear", antialias=preparation.antialias)
        video = frames.unflatten(1, video.shape[1:3])
    top, left = ((length - side) // 2 for length in new)
    return video[..., top : top + side, left : left + side]


def _legacy(old: int, new: int) -> Tensor:
    """Linear interpolation of `old` pixels to `new` ones on the grid of TensorFlow 1, as a matrix `(new, old)`."""
    place = torch.arange(new, dtype=torch.float32) * (old / new)
    below = place.floor().long()
    share = (place - below)[:, None]
    pixels = torch.eye(old, dtype=torch.float32)
    return pixels[below] * (1 - share) + pixels[(below + 1).clamp_max(old - 1)] * share


class Prepared(nn.Module):
    """A network behind the preparation of its clips.

    Args:
        network: From prepared clips to features `(B, d)`. A copy of it is used, whose batch norms get the epsilon of
            the preparation; the network itself stays as it is.
        preparation: How clips are prepared.

    Attributes:
        num_features, name, published: Those of the network, if it has them.
        origin: That of the network, and the preparation.

    Raises:
        InputError: The network is TorchScript whose batch norms are not found, as they may be folded into convolutions.
    """

    num_features: int
    name: str
    published: bool

    def __init__(self, network: nn.Module, preparation: Preparation) -> None:
        super().__init__()
        self.preparation = preparation
        with torch.no_grad():  # else a copy of TorchScript would lead back to the original
            self.network = copy.deepcopy(network).float().eval()
        if preparation.batch_norm_eps is not None:
            set_batch_norm_eps(self.network, preparation.batch_norm_eps)
        for attribute in ("num_features", "name", "published"):
            if hasattr(network, attribute):
                setattr(self, attribute, getattr(network, attribute))
        # Saved statistics of real clips hold it by this key.
        self.origin: dict[str, Any] = {**getattr(network, "origin", {}), "protocol": asdict(preparation)}

    def forward(self, video: Tensor) -> Tensor:
        """Features `(B, d)`, float32, of clips `(B, 3, T, H, W)`, float in [0, 1] or uint8."""
        return self.network(prepare(video, self.preparation))
