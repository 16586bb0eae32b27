"""`generate --again`: the same video again, bit by bit, from its record."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from cmd_lightning.commands.files import check_unwritten, make_folder, tell, warn
from cmd_lightning.commands.generation import Run, fitted, opened, prompt_notices, record_path, resized, videos_of
from cmd_lightning.commands.loading import loading
from cmd_lightning.commands.records import Job, Options, described, record, write_record
from cmd_lightning.commands.uses import next_to, use_of
from cmd_lightning.errors import InputError


def make_again(file: str, out: str, suffix: str) -> int:
    """Writes OUT/<name of the record>-again with a suffix, and its record; returns 1 if a frame differs, else 0.

    The whole batch is computed, on as many threads as before, since rounding depends on both.

    Raises:
        InputError: The file is not a record, or the model's weights have changed.
    """
    found = read_record(file)
    options = Options(**found["options"])
    if options.ip_adapter_image is not None:
        options = replace(options, ip_adapter_image=near(options.ip_adapter_image, Path(file)))
    jobs = [job_of(job, Path(file)) for job in found["batch"]]
    folder = make_folder(Path(out), "--out")
    path = folder / f"{Path(file).stem}-again{suffix}"
    check_unwritten(folder, [path, record_path(path)])
    with loading(options.model):
        import torch

        from cmd_lightning import video_encoding

        pipeline = opened(options)
    before = torch.get_num_threads()
    torch.set_num_threads(found["threads"])
    try:
        about = described(pipeline, options, found["steps"], found["guidance"])
        changed = [name for name, digest in found["weights"].items() if about["weights"].get(name) != digest]
        if changed:
            raise InputError(f"--again {file}: {options.model} has other weights now ({changed[0]}); put those back")
        images = fitted(pipeline, Run(options, jobs, []))
        videos, changes = videos_of(pipeline, options, jobs, images, found["steps"], found["guidance"])
        video = videos[found["place"]]
    finally:
        torch.set_num_threads(before)
    job = jobs[found["place"]]
    notes = [*prompt_notices(pipeline, job, list(found["steps"])), *resized(job, images), *changes]
    made = record(about, jobs, found["place"], video, notes)
    video_encoding.write_video(path, video, pipeline.config.fps)
    write_record(record_path(path), made)
    print(path)
    if made["frames_sha256"] == found["frames_sha256"]:
        tell("the same frames, bit for bit")
        return 0
    names = ("versions", "hardware", "device", "threads")
    other = [f"{name} {found[name]}, now {made[name]}" for name in names if found[name] != made[name]]
    warn(f"other frames than those of {file}: {'; '.join(other) or 'nothing that it records has changed'}")
    return 1


def read_record(file: str) -> dict[str, Any]:
    """The record in a file.

    Raises:
        InputError: There is no record, or it is from a version that recorded too little.
    """
    try:
        found = json.loads(Path(file).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"--again {file}: there is no such file; give the .json next to a video") from None
    except (ValueError, OSError) as error:
        raise InputError(f"--again {file}: it is not a video's record ({error}); give the .json next to one") from error
    needed = ("options", "batch", "place", "steps", "guidance", "weights", "threads", "frames_sha256")
    missing = [name for name in needed if not isinstance(found, dict) or name not in found]
    if missing:
        raise InputError(f"--again {file}: it has no {missing[0]!r}; give a record of `generate` of this version")
    return found


def job_of(data: Mapping[str, Any], file: Path) -> Job:
    """A job from a record; missing files are also searched next to the record."""
    job = Job(**{**data, "use": use_of(data.get("use"))})
    moved: dict[str, Any] = {
        name: near(getattr(job, name), file) for name in ("image", "control_image") if getattr(job, name)
    }
    return replace(job, use=None if job.use is None else next_to(job.use, file.parent), **moved)


def near(image: str, file: Path) -> str:
    """An image of a record, or else the file of that name next to the record."""
    moved = file.parent / Path(image).name
    if not (Path(image).is_file() or moved.is_file()):
        raise InputError(f"--again {file}: its image {image} is missing; put it next to the record")
    return image if Path(image).is_file() else str(moved)
