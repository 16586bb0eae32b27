"""open_i3d: the I3D with published weights, or with those of a file.

Which weights a file holds is known by its git blob id (what `git hash-object FILE` prints), a checksum of all of it.
"""

from __future__ import annotations

import hashlib
import io
import os
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torchmetrics.utilities import rank_zero_warn

from cmd_lightning.errors import InputError, reason
from cmd_lightning.metric_names import I3D_NAMES
from cmd_lightning.metrics.i3d import I3D, check_clip
from cmd_lightning.metrics.precision import Frozen
from cmd_lightning.metrics.preparation import Preparation, Prepared
from cmd_lightning.metrics.torchscript import UNTRUSTED, is_torchscript, load_torchscript

VARIABLE = "CMD_I3D_WEIGHTS"  # environment variable: the file that "i3d" stands for


class Public(NamedTuple):
    """A public file of weights: what it is, what distances over it are called after, and where it was to be had."""

    what: str
    name: str
    file: str = ""
    url: str = ""


PUBLIC = {
    "a867b87ac3a9097d200598b1d48a1b890d8ec744": Public(
        "published: Kinetics-only I3D of FVD (VideoGPT/TATS)",
        "i3d",
        "i3d_pretrained_400.pt",
        "https://github.com/songweige/TATS/raw/main/tats/fvd/i3d_pretrained_400.pt",
    ),
    "93daef59c7ae0e9e8f76225521407e60cbafa6aa": Public(
        "published: StyleGAN-V torchscript",
        "i3d",
        "i3d_torchscript.pt",
        "https://www.dropbox.com/s/ge9e5ujwgetktms/i3d_torchscript.pt?dl=1",
    ),
    "73a4fd1d87eb3dbd97f33a9779fa1caa3d28111a": Public(
        "ImageNet+Kinetics I3D (piergiaj): not the detector of published FVD", "i3d (ImageNet+Kinetics)"
    ),
    "2a7c22e23e6c74f50a0166ce61110bccd2ab48bb": Public(
        "ImageNet+Kinetics I3D (hassony2): not the detector of published FVD", "i3d (ImageNet+Kinetics)"
    ),
}
"""Public files by git blob id. The addresses are those that other projects name; none was in reach when this was
written, so none has been tried."""

PUBLISHED = dict(zip(I3D_NAMES, PUBLIC, strict=False))
"""Names of the weights of published FVD, and their git blob ids: the same weights plain and as TorchScript."""

TORCHSCRIPT_EPS = 1e-3  # of the batch norms of the published TorchScript, whose features are those of the original


def open_i3d(weights: str | Path, preparation: Preparation, trust_torchscript: bool = False) -> nn.Module:
    """Open the I3D for distances.

    A name is looked up: "i3d" in the environment variable CMD_I3D_WEIGHTS, which names a file of any layout; then both
    among the checkpoints of `torch.hub.get_dir()`; then it is downloaded to there.

    Args:
        weights: "i3d" or "i3d-torchscript"; or a file: a state dict (.pt, .pth, .safetensors) laid out as
            i3d_pretrained_400.pt, rgb_imagenet.pt or model_rgb.pth, or a TorchScript archive.
        preparation: How clips are prepared.
        trust_torchscript: Whether to open other TorchScript than the published one. It is a program: trust its author.

    Returns:
        Network from clips `(B, 3, T, H, W)`, float in [0, 1], to features `(B, 400)`, with attributes `num_features`;
        `name`, what distances are called after; `published`, whether it holds the Kinetics-only weights of published
        FVD; and `origin`, a record of file, checksums, preparation and "warning", if any, as plain JSON data.

    Raises:
        InputError: No file, none to be had, or not one of these weights.
    """
    name = (os.environ.get(VARIABLE) if str(weights) == "i3d" else None) or str(weights)
    wanted = PUBLISHED.get(name)
    path = Path(torch.hub.get_dir(), "checkpoints", PUBLIC[wanted].file) if wanted else Path(name).expanduser()
    missing = not path.is_file()
    if missing and wanted is None:
        raise InputError(
            f"weights {path}: there is no such file; check the path (for i3d it is what {VARIABLE} names), or give one "
            f"of {', '.join(PUBLISHED)}"
        )
    if missing:
        url = PUBLIC[PUBLISHED[name]].url
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, str(path))  # under another name until it is complete
        except (OSError, RuntimeError) as error:  # those of urllib are OSErrors
            problem = f"no download from {url} ({reason(error)})"
            raise InputError(f"weights {name}: {problem}; {_remedy(name)}") from error
    data = path.read_bytes()  # once: what is checked is what is opened
    blob, sha256 = git_blob_id(data), hashlib.sha256(data).hexdigest()
    if wanted not in (None, blob):
        if missing:
            path.unlink()
        what = f"{PUBLIC[wanted].url} gave" if missing else f"{path} is"
        raise InputError(
            f"weights {name}: {what} another file than the published one, of git blob {wanted}; {_remedy(name)}"
        )
    public = PUBLIC.get(blob, Public("of unknown origin", f"i3d (unpublished weights {sha256[:8]})"))
    try:
        network = _open(data, blob, trust_torchscript)
    except InputError as error:
        raise InputError(f"weights {path}: {error}") from error
    prepared = Prepared(network, preparation)
    prepared.name, prepared.published = public.name, blob in PUBLISHED.values()
    record = {"weights": path.name, "sha256": sha256, "git_blob": blob, "what": public.what}
    if not prepared.published:
        warning = f"weights {path.name}: {public.what}; distances over them are no published FVD and compare with none"
        rank_zero_warn(warning)
        record["warning"] = warning
    prepared.origin = record | prepared.origin
    return Frozen(prepared)


def git_blob_id(data: bytes) -> str:
    """What `git hash-object` prints for a file of this content."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def _remedy(name: str) -> str:
    public = PUBLIC[PUBLISHED[name]]
    return f"get {public.file} from {public.url} or elsewhere, and set {VARIABLE} to the file or give its path"


def _open(data: bytes, blob: str, trust_torchscript: bool) -> nn.Module:
    scripted, known = is_torchscript(io.BytesIO(data)), blob in PUBLISHED.values()
    if scripted and not (trust_torchscript or known):
        raise InputError(UNTRUSTED.format(call="open_feature"))
    try:
        if scripted:
            return _Script(load_torchscript(io.BytesIO(data)), TORCHSCRIPT_EPS if known else None)
        if data[8:9] == b"{" and data[:1] != b"\x80":  # the length of a header of JSON, then that
            from safetensors.torch import load

            state: Any = load(data)
        else:
            state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # of many kinds: of pickle, zipfile, safetensors, the interpreter of TorchScript
        raise InputError(f"cannot be opened ({reason(error)}); give a state dict of the I3D") from error
    state = state.get("state_dict", state) if isinstance(state, dict) else state
    if not isinstance(state, dict):
        raise InputError(f"holds a {type(state).__name__}; give a state dict")
    network = I3D()
    network.load_state_dict(state)
    return network


class _Script(nn.Module):
    """TorchScript with the signature of StyleGAN-V's."""

    num_features = I3D.num_features

    def __init__(self, network: torch.jit.ScriptModule, batch_norm_eps: float | None) -> None:
        super().__init__()
        self.network, self.batch_norm_eps = network, batch_norm_eps

    def forward(self, video: Tensor) -> Tensor:
        check_clip(video)
        with torch.jit.fuser("none"):  # it would compile for every shape, which fails on some machines
            features = self.network(video, rescale=False, resize=False, return_features=True)
        if features.shape != (len(video), self.num_features):
            found = f"gave {tuple(features.shape)} of {video.shape[-1]}x{video.shape[-2]} pixels"
            raise InputError(f"weights: the TorchScript {found}, not {(len(video), 400)}; set side=224")
        return features
