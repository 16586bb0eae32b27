"""What makes a number reproducible: commit, versions, hardware, date and weights."""

from __future__ import annotations

import hashlib
import platform
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn


def provenance() -> dict[str, str]:
    """Versions, commit, hardware, system and date, as a record to store with a result."""
    import torch

    from cmd_lightning import __version__

    versions = [f"cmd-lightning {__version__}"]
    for name in ("torch", "lightning", "diffusers", "torchmetrics", "open_clip_torch"):
        with suppress(PackageNotFoundError):  # a benchmark may do without some
            versions.append(f"{name} {version(name)}")
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return {
        "versions": ", ".join(versions),
        "commit": commit() or "not known: not run from a checkout",
        "hardware": f"{processor()}, {torch.get_num_threads()} threads{gpu}",
        "system": f"{platform.system()}, Python {platform.python_version()}",
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }


def commit() -> str | None:
    """The checked-out commit, if this package runs from its own repository."""
    root = Path(__file__).resolve().parents[1]
    if not (root / ".git").exists():
        return None
    try:
        git = ["git", "-C", str(root)]
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changed = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    return f"{head} with changes" if changed.strip() else head


def processor() -> str:
    """The processor's name."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def weights_sha256(path: str | Path) -> dict[str, str]:
    """The sha256 of a weights file, or of each one in a folder, by its path within it."""
    path = Path(path)
    root, files = (path.parent, [path]) if path.is_file() else (path, sorted(path.rglob("*.safetensors")))
    return {file.relative_to(root).as_posix(): sha256(file) for file in files}


def sha256(*files: str | Path) -> str:
    """Hexadecimal digest of the contents of files, one after the other."""
    digest = hashlib.sha256()
    for path in files:
        with open(path, "rb") as file:
            hashlib.file_digest(file, lambda: digest)
    return digest.hexdigest()


def state_sha256(network: nn.Module) -> str:
    """The sha256 of a network's weights and buffers, independent of their file."""
    import torch

    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)} ".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def fingerprint(tensors: Mapping[str, Tensor], about: str = "") -> str:
    """First 16 hexadecimal digits of the sha256 of names, shapes and values, whatever their type, and of `about`."""
    digest = hashlib.sha256(about.encode())
    for name, tensor in sorted(tensors.items()):
        value = tensor.detach().cpu().float().contiguous()
        digest.update(f"{name}{tuple(value.shape)}".encode())
        digest.update(value.numpy().tobytes())
    return digest.hexdigest()[:16]
