"""Files of commands: model folders, folders that are written completely or not at all, reports; and sizes."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cmd_lightning.errors import InputError, check_positive, reason
from cmd_lightning.zoo import model_folder

if TYPE_CHECKING:
    from cmd_lightning.pipeline import CMDPipeline


@contextmanager
def new_folder(path: Path, option: str) -> Iterator[Path]:
    """A temporary folder that becomes `path` when the block succeeds, and is removed when it fails."""
    from cmd_lightning.atomic_files import replaced

    check_new(path, option)
    make_folder(path.parent, option)
    with replaced(path) as draft:
        draft.mkdir()
        yield draft


def check_new(path: Path, option: str) -> None:
    """Reject a path that exists and is not an empty folder."""
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise InputError(f"{option} {path}: it exists and is not empty; give a new folder, or remove it")


def check_unwritten(folder: Path, paths: Iterable[Path], remedy: str = "give another --out") -> None:
    """Reject paths in a folder that exist already: files of the user are never overwritten."""
    if there := [path for path in paths if path.exists() or path.is_symlink()]:
        more = f" and {len(there) - 1} more exist" if len(there) > 1 else " exists"
        raise InputError(f"--out {folder}: {there[0].relative_to(folder)}{more} already; {remedy}")


def make_folder(path: Path, option: str) -> Path:
    """The folder `path`, created if missing."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{option} {path}: the folder cannot be created ({error.strerror}); give another") from error
    return path


def unused(path: Path, used: set[Path]) -> Path:
    """`path`, or with a number before its suffix if this run has used it already; adds it to `used`."""
    choice, number = path, 1
    while choice in used:
        number += 1
        choice = path.with_name(f"{path.stem}-{number}{path.suffix}")
    used.add(choice)
    return choice


def read_prompts(path: str) -> list[str]:
    """The captions in a text file, one per line; blank lines do not count.

    Only line feeds and carriage returns end a line; other separators, such as U+2028, are part of a caption. Byte order
    marks, which Windows editors write, are dropped wherever they are.
    """
    if not Path(path).is_file():
        raise InputError(f"--prompts {path}: there is no such file; give a text file with a caption per line")
    try:
        text = Path(path).read_text(encoding="utf-8")  # carriage returns become line feeds
    except UnicodeDecodeError:
        raise InputError(f"--prompts {path}: it is not UTF-8 text; save it as UTF-8") from None
    lines = [line.strip() for line in text.replace("\ufeff", "").split("\n")]
    if not any(lines):
        raise InputError(f"--prompts {path}: the file has no caption; write one per line")
    return [line for line in lines if line]


def check_sampling(steps: dict[str, int] | None, guidance: dict[str, float] | None) -> None:
    """Reject numbers that no model allows, before one is opened."""
    check_positive(steps=min((steps or {"": 1}).values()))
    for scale in (guidance or {}).values():
        if not math.isfinite(scale):
            raise InputError(f"--guidance {scale}: give a finite number")


def warn(text: str) -> None:
    """Prints a warning to standard error."""
    tell(f"warning: {text}")


def write_json(report: Any, target: str | None) -> None:
    """Writes a report as JSON to a file, or to standard output for "-"; nothing for None."""
    if target is None:
        return
    text = json.dumps(report, indent=2, ensure_ascii=False)
    if target == "-":
        print(text)
        return
    from cmd_lightning.atomic_files import replaced

    make_folder(Path(target).parent, "--json")
    with replaced(Path(target)) as draft:
        draft.write_text(text + "\n")


def pixels(size: str | None) -> tuple[int, int] | None:
    """Reads "64" or "64x96" (height x width)."""
    if size is None:
        return None
    sides = size.split("x")
    if len(sides) > 2 or not all(side.isdecimal() and int(side) for side in sides):
        raise InputError(f"--size {size}: give SIDE or HEIGHTxWIDTH in pixels, as 64 or 64x96")
    return int(sides[0]), int(sides[-1])


def tell(text: str) -> None:
    """Prints a line of progress to standard error."""
    print(text, file=sys.stderr, flush=True)


def report(result: dict[str, Any], target: str | None) -> None:
    """Writes a report to the file of `--json`, or else to standard error."""
    if target is None:
        tell(json.dumps(result, indent=2, ensure_ascii=False))
    write_json(result, target)


def open_model(model: str, dtype: str = "float32") -> CMDPipeline:
    """The pipeline of a model folder or a model of the zoo, on the GPU if there is one."""
    folder = model_folder(model)
    import torch
    from diffusers.utils import logging

    from cmd_lightning.pipeline import CMDPipeline

    logging.disable_progress_bar()  # for reading the parts, which takes a moment; that of the denoising steps stays
    try:
        pipeline = CMDPipeline.from_pretrained(folder, **{} if dtype == "float32" else {"dtype": getattr(torch, dtype)})
    except InputError:
        raise
    except Exception as error:  # a damaged folder fails in many ways, deep in diffusers
        raise InputError(f"MODEL {model}: it cannot be opened ({reason(error)}); export it again") from error
    return pipeline.to(best_device())


def best_device() -> str:
    """The GPU if there is one."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
