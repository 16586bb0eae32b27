"""`generate`: videos from prompts, classes or images, each with a record of how it was made."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Mapping
from itertools import cycle
from pathlib import Path
from typing import Any, Literal

from cmd_lightning.commands.again import make_again
from cmd_lightning.commands.devices import spread
from cmd_lightning.commands.files import check_sampling, make_folder, read_prompts, unused
from cmd_lightning.commands.generation import Run, work
from cmd_lightning.commands.grid import write_grid
from cmd_lightning.commands.records import Job, Options
from cmd_lightning.errors import InputError, check_positive
from cmd_lightning.zoo import model_folder

FORMATS = {"mp4": ".mp4", "gif": ".gif", "webp": ".webp", "png": ""}
"""What the names of files end with; a folder of PNGs has no suffix."""


def generate(
    model: str | None = None,
    *,
    prompt: list[str] | None = None,
    prompts: str | None = None,
    class_: list[int] | None = None,
    image: list[str] | None = None,
    again: str | None = None,
    background: str = "white",
    num: int = 1,
    seed: int = 0,
    steps: dict[str, int] | None = None,
    guidance: dict[str, float] | None = None,
    solver: dict[str, Literal["ddim", "dpm++", "unipc", "lcm"]] | None = None,
    lora: str | None = None,
    frame_decoder: str | None = None,
    dtype: Literal["float32", "bfloat16"] = "float32",
    compile_: bool = False,
    batch_size: int = 8,
    devices: int = 1,
    resume: bool = False,
    format_: Literal["mp4", "gif", "webp", "png"] = "mp4",
    grid: int | None = None,
    out: str = "outputs/generate",
) -> int | None:
    """Write OUT/<slug>-<seed>.mp4 and .json for each video.

    Args:
        model: Model folder, as written by export, or a name of the zoo, e.g. shapes32.
        prompt: Captions.
        prompts: Text file with a caption per line; blank lines do not count.
        class_: Class ids, for a class-conditional model.
        image: Images to animate, resized and cropped to the model's size.
        again: Record (.json) of a video that is generated once more, bit for bit, as OUT/<name>-again; alone, or with
            --out and --format. The exit code is 1 if a frame differs, as on other hardware.
        background: Colour behind transparent pixels of images, a name or #rrggbb.
        num: Videos for each prompt, class or image.
        seed: Seed of the first video for each prompt, class or image; the next videos use the next numbers.
        steps: Denoising steps, by default the model's own, else 50 for content and 100 for motion.
        guidance: Guidance scale, 1 or less disables it; by default the model's own, else 4 for content and 1 for
            motion.
        solver: One of ddim, dpm++, unipc and lcm, by default the model's own; dpm++ and unipc are for few steps, such
            as 10. lcm is for 1 to 8 steps of distilled models and of LCM-LoRAs, usually with guidance 1.
        lora: LoRA adapters for the model's Stable Diffusion: a .safetensors file in the public layout, or its folder.
        frame_decoder: Image autoencoder that decodes the frames instead of the model's, such as a tiny one for the same
            latents: a folder in diffusers' layout, or a hub id.
        dtype: Data type in which the networks compute; bfloat16 is for GPUs.
        compile_: Compile the networks first; takes minutes, and is worth it for many videos.
        batch_size: Videos generated at once; affects only speed, memory and the last bit of rounding.
        devices: GPUs that share the batches; without GPUs, processes.
        resume: Leave out videos that an earlier call with the same options has written; those of other options are an
            error.
        format_: Kind of the files: mp4 (H.264, for browsers and QuickTime), gif, webp (animated, lossless), or png for
            a folder of frames.
        grid: Write also all videos of this call as one, OUT/grid.mp4, with this many in a row.
        out: Folder for the videos.
    """
    if again is not None:
        check_alone(locals())
        return make_again(again, out, FORMATS[format_])
    if model is None:
        raise InputError("MODEL: missing; give a model folder, or a name of the zoo, e.g. shapes32")
    values = conditions(prompt, prompts, class_)
    check_positive(num=num, batch_size=batch_size, devices=devices, grid=1 if grid is None else grid)
    check_sampling(steps, guidance)
    if not 0 <= seed < 2**62:
        raise InputError(f"--seed {seed}: give a whole number from 0 to 2**62 - 1")
    check_model(model, values, image is not None)
    check_files(image or [], lora)
    if image is not None and len(values) not in (1, len(image)):
        raise InputError(f"--image: {len(image)} images for {len(values)} prompts; give one prompt, or one per image")
    folder = make_folder(Path(out), "--out")
    pairs = [(value, None) for value in values] if image is None else list(zip(cycle(values), image, strict=False))
    jobs = [Job(value, seed + copy, file) for value, file in pairs for copy in range(num)]
    written: set[Path] = set()
    paths = [unused(folder / f"{name_of(job)}{FORMATS[format_]}", written) for job in jobs]
    options = Options(model, solver, lora, frame_decoder, dtype, compile_, background)
    run = Run(options, jobs, paths, batch_size, steps, guidance, resume)
    if devices == 1:
        work(run)
    else:
        spread(run, devices)
    if grid is not None:
        print(write_grid(paths, grid, folder / f"grid{FORMATS[format_]}"))
    return None


def check_alone(values: Mapping[str, Any]) -> None:
    """Reject options next to `--again` that the record has."""
    for name, parameter in inspect.signature(generate).parameters.items():
        if name not in ("again", "format_", "out") and values[name] != parameter.default:
            raise InputError(f"--again and `{name}`: the record has it; leave it out")


def conditions(prompt: list[str] | None, prompts: str | None, classes: list[int] | None) -> list[Any]:
    """What to generate from, one entry per video; a single None where neither a prompt nor a class is given."""
    given = [name for name, value in (("prompt", prompt), ("prompts", prompts), ("class", classes)) if value]
    if len(given) > 1:
        raise InputError(f"--{given[0]} and --{given[1]}: give one of the two")
    return read_prompts(prompts) if prompts is not None else prompt or classes or [None]


def check_model(model: str, values: list[Any], given_images: bool) -> None:
    """Reject conditions that a model does not take, from its index alone: opening the model takes seconds."""
    index = json.loads((model_folder(model) / "model_index.json").read_text(encoding="utf-8"))
    parts = ("motion_text_encoder",) if given_images else ("text_encoder", "motion_text_encoder")
    classes = {(index.get(part) or [None, None])[1] for part in parts} - {None}
    text = dict.fromkeys(("OpenCLIPTextEncoder", "PhraseEncoder"), "a prompt (--prompt)")
    options = text | {"ClassEncoder": "class ids (--class)"}
    if classes and values == [None]:
        wanted = options.get(classes.pop(), "a prompt (--prompt), or class ids (--class) if it was trained on classes")
        raise InputError(f"MODEL {model}: this model needs a condition; give {wanted}")


def check_files(images: list[str], lora: str | None) -> None:
    """Reject paths of missing files."""
    for path in images:
        if not Path(path).is_file():
            raise InputError(f"--image {path}: there is no such file; give a PNG or JPEG")
    if lora is not None and not Path(lora).exists():
        raise InputError(f"--lora {lora}: there is no such file; give a .safetensors file, or its folder")


def name_of(job: Job) -> str:
    """The name of a video's file, without suffix."""
    return f"{slug(job.condition, Path(job.image).stem if job.image else '')}-{job.seed}"


def slug(value: str | int | None, picture: str = "") -> str:
    """A picture's name and a condition as a file name: lower-case letters, digits and dashes, 60 at most."""
    condition = f"class-{value}" if isinstance(value, int) else value or ""
    return re.sub(r"[^a-z0-9]+", "-", f"{picture} {condition}".lower()).strip("-")[:60] or "video"
