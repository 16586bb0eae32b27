"""`generate --again`: a video once more, bit for bit, from its record."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from cmd_lightning.commands.files import make_folder, tell, warn
from cmd_lightning.commands.generation import Run, fitted, opened, prompt_notices, record_path, resized, videos_of
from cmd_lightning.commands.loading import loading
from cmd_lightning.commands.records import Job, Options, described, record, write_record
from cmd_lightning.commands.uses import next_to, use_of
from cmd_lightning.errors import InputError


def make_again(file: str, out: str, suffix: str) -> int:
    """Writes OUT/<name of the record>-again with a suffix, and its record; gives 1 if a frame differs, else 0.

    The whole batch is computed, on as many threads as before, since rounding depends on both.

    Raises:
        InputError: The file is no record, or the model's weights are others now.
    """
    found = read_record(file)
    options = Options(**found["options"])
    jobs = [near(Job(**job | {"use": use_of(job.get("use"))}), Path(file)) for job in found["batch"]]
    path = make_folder(Path(out), "--out") / f"{Path(file).stem}-again{suffix}"
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
            raise InputError(f"--again {file}: {options.model} has other weights now ({changed[0]}); give the old ones")
        images = fitted(pipeline, Run(options, jobs, []))
        videos, changes = videos_of(pipeline, jobs, images, found["steps"], found["guidance"])
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
        InputError: There is none, or it is of a version that did not record enough.
    """
    try:
        found = json.loads(Path(file).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"--again {file}: there is no such file; give the .json next to a video") from None
    except (ValueError, OSError) as error:
        raise InputError(f"--again {file}: it is no record of a video ({error}); give the .json next to one") from error
    needed = ("options", "batch", "place", "steps", "guidance", "weights", "threads", "frames_sha256")
    missing = [name for name in needed if not isinstance(found, dict) or name not in found]
    if missing:
        raise InputError(f"--again {file}: it has no {missing[0]!r}; give a record of `generate` of this version")
    return found


def near(job: Job, file: Path) -> Job:
    """A job whose files are looked for next to the record too, as for a record that was sent with its image."""
    if job.use is not None:
        job = replace(job, use=next_to(job.use, file.parent))
    if job.image is None or Path(job.image).is_file():
        return job
    image = file.parent / Path(job.image).name
    if not image.is_file():
        raise InputError(f"--again {file}: its image {job.image} is missing; put it next to the record")
    return replace(job, image=str(image))
