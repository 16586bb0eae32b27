"""`generate`: videos from prompts, classes, images or clips, each with a record to generate it again."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Mapping
from itertools import cycle, islice
from pathlib import Path
from typing import Any, Literal

from cmd_lightning.commands.again import make_again
from cmd_lightning.commands.devices import spread
from cmd_lightning.commands.files import check_sampling, check_unwritten, make_folder, read_prompts, unused
from cmd_lightning.commands.generation import Run, record_path, work
from cmd_lightning.commands.grid import write_grid
from cmd_lightning.commands.records import Job, Options
from cmd_lightning.commands.uses import Use, uses_of
from cmd_lightning.errors import InputError, check_positive
from cmd_lightning.zoo import model_folder

FORMATS = {"mp4": ".mp4", "gif": ".gif", "webp": ".webp", "png": ""}
"""Suffixes of files; a folder of PNGs has none."""


def generate(
    model: str | None = None,
    *,
    prompt: list[str] | None = None,
    prompts: str | None = None,
    class_: list[int] | None = None,
    image: list[str] | None = None,
    content_from: list[str] | None = None,
    motion_from: list[str] | None = None,
    video: list[str] | None = None,
    strength: dict[str, float] | None = None,
    mask: str | None = None,
    interpolate: Literal["content", "motion"] | None = None,
    frames: int | None = None,
    overlap: int | None = None,
    again: str | None = None,
    background: str = "white",
    num: int = 1,
    seed: int = 0,
    steps: dict[str, int] | None = None,
    guidance: dict[str, float] | None = None,
    solver: dict[str, Literal["ddim", "dpm++", "unipc", "lcm"]] | None = None,
    lora: str | None = None,
    controlnet: str | None = None,
    control_image: list[str] | None = None,
    controlnet_scale: float = 1.0,
    ip_adapter: str | None = None,
    ip_adapter_image: str | None = None,
    ip_adapter_scale: float = 1.0,
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
        content_from: Clips or images whose content gets new motion, or that of --motion-from.
        motion_from: Clips whose motion is followed by the generated content, or by that of --content-from or --image.
        video: Clips to change, to edit with --mask, to continue with --frames, or to --interpolate.
        strength: How much to change the given clips: the share of the denoising steps that run, from 0 to 1; by default
            0.75 for --video, 0.5 for --motion-from, 1 within --mask, 0.6 with --interpolate, 0.3 for the content frames
            of windows with --frames.
        mask: Image of the size of --video, white where to edit; the rest is kept.
        interpolate: Interpolate the content, or the motion, from the first --video to the second, in --num videos.
        frames: Frames of a video longer than the model's; each window begins with the last frames of the one before.
        overlap: Frames that windows share, by default as many as determine the content frame.
        again: Record (.json) of a video to generate again, bit for bit, as OUT/<name>-again; only --out and --format
            may be added. The exit code is 1 if a frame differs, as on other hardware.
        background: Colour behind transparent pixels of images, a name or #rrggbb.
        num: Videos for each prompt, class, image or clip.
        seed: Seed of the first video for each prompt, class or image; the next videos use the next numbers.
        steps: Denoising steps, by default the model's own, else 50 for content and 100 for motion.
        guidance: Guidance scale, 1 or less disables it; by default the model's own, else 4 for content and 1 for
            motion.
        solver: One of ddim, dpm++, unipc and lcm, by default the model's own; dpm++ and unipc are for few steps, such
            as 10. lcm is for 1 to 8 steps of distilled models and of LCM-LoRAs, usually with guidance 1.
        lora: LoRA adapters for the model's Stable Diffusion: a .safetensors file in the public layout, or its folder.
        controlnet: ControlNet for the model's Stable Diffusion: a folder in diffusers' layout, or a hub id.
        control_image: Images for the ControlNet, such as edges or poses: one, or one for each prompt.
        controlnet_scale: Weight of the ControlNet; 0 disables it.
        ip_adapter: IP-Adapter for the model's Stable Diffusion: a .safetensors file in the public layout, with a folder
            image_encoder next to it.
        ip_adapter_image: Image prompt, whose style or content the content frames follow.
        ip_adapter_scale: Weight of the IP-Adapter; 0 disables it.
        frame_decoder: Image autoencoder that decodes the frames instead of the model's, such as a tiny one for the same
            latents: a folder in diffusers' layout, or a hub id.
        dtype: Data type in which the networks compute; bfloat16 is for GPUs.
        compile_: Compile the networks first; takes minutes, and is worth it for many videos.
        batch_size: Videos generated at once; affects only speed, memory and the last bit of rounding.
        devices: GPUs that share the batches; without GPUs, processes.
        resume: Skip videos that an earlier call with the same options has written. Videos with other options are an
            error; without --resume, any existing file is. Nothing is overwritten.
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
    if image is not None and (content_from or video):
        raise InputError(f"--image and {'--content-from' if content_from else '--video'}: give one of the two")
    clips = {"content_from": content_from, "motion_from": motion_from, "video": video, "mask": [mask] if mask else None}
    uses = uses_of(clips, num, strength, interpolate=interpolate, frames=frames, overlap=overlap)
    check_model(model, values, "content" not in (uses[0] if uses else Use()).stages(image is not None))
    if control_image and not (controlnet or (model_index(model).get("controlnet") or [None])[0]):
        raise InputError(f"--control-image: {model} has no ControlNet; give --controlnet")
    prompted = [ip_adapter_image] if ip_adapter_image else None
    check_files({"--image": image, "--control-image": control_image, "--ip-adapter-image": prompted}, lora)
    check_guides(locals())
    if image is not None and len(values) not in (1, len(image)):
        raise InputError(f"--image: {len(image)} images for {len(values)} prompts; give one prompt, or one per image")
    if control_image is not None and len({1, len(values), len(control_image)}) > 2:
        raise InputError(f"--control-image: {len(control_image)} for {len(values)} prompts; give one, or one for each")
    folder = make_folder(Path(out), "--out")
    if interpolate and len(values) > 2:
        raise InputError(f"--interpolate {interpolate}: {len(values)} prompts; give one, or one for each clip")
    if uses and not interpolate and len({1, len(values), len(uses), len(image or [1])}) > 2:
        raise InputError(f"--prompt: {len(values)} for {len(uses)} clips; give one, or one for each")
    if interpolate:
        jobs = [Job(values[-1 if (use.weight or 0) >= 0.5 else 0], seed, None, use) for use in uses]
    else:
        count = max(map(len, (values, image or [], uses, control_image or [])))
        given = [list(islice(cycle(each or [None]), count)) for each in (values, image, uses, control_image)]
        jobs = [Job(value, seed + copy, *files) for value, *files in zip(*given, strict=True) for copy in range(num)]
    written: set[Path] = set()
    paths = [unused(folder / f"{name_of(job)}{FORMATS[format_]}", written) for job in jobs]
    target = folder / f"grid{FORMATS[format_]}"
    if not resume:
        files = [file for path in paths for file in (path, record_path(path))] + ([] if grid is None else [target])
        check_unwritten(folder, files, "give --resume to leave out such videos, or another --seed or --out")
    options = Options(
        model,
        solver,
        lora,
        frame_decoder,
        dtype,
        compile_,
        background,
        controlnet,
        controlnet_scale,
        ip_adapter,
        ip_adapter_image,
        ip_adapter_scale,
    )
    run = Run(options, jobs, paths, batch_size, steps, guidance, resume)
    if devices == 1:
        work(run)
    else:
        spread(run, devices)
    if grid is not None:
        print(write_grid(paths, grid, target))
    return None


def check_alone(values: Mapping[str, Any]) -> None:
    """Reject options next to `--again` that the record has."""
    for name, parameter in inspect.signature(generate).parameters.items():
        if name not in ("again", "format_", "out") and values[name] != parameter.default:
            raise InputError(f"--again and `{name}`: the record has it; leave it out")


def conditions(prompt: list[str] | None, prompts: str | None, classes: list[int] | None) -> list[Any]:
    """The prompts or classes to generate from; a single None if neither is given."""
    given = [name for name, value in (("prompt", prompt), ("prompts", prompts), ("class", classes)) if value]
    if len(given) > 1:
        raise InputError(f"--{given[0]} and --{given[1]}: give one of the two")
    return read_prompts(prompts) if prompts is not None else prompt or classes or [None]


def check_model(model: str, values: list[Any], given_images: bool) -> None:
    """Reject conditions that a model does not support, from its index: opening the model takes seconds."""
    index = model_index(model)
    parts = ("motion_text_encoder",) if given_images else ("text_encoder", "motion_text_encoder")
    classes = {(index.get(part) or [None, None])[1] for part in parts} - {None}
    text = dict.fromkeys(("OpenCLIPTextEncoder", "PhraseEncoder"), "a prompt (--prompt)")
    options = text | {"ClassEncoder": "class ids (--class)"}
    if classes and values == [None]:
        wanted = options.get(classes.pop(), "a prompt (--prompt), or class ids (--class) if it was trained on classes")
        raise InputError(f"MODEL {model}: this model needs a condition; give {wanted}")


def model_index(model: str) -> dict[str, Any]:
    """The classes of a model's parts, by name, and its settings."""
    return json.loads((model_folder(model) / "model_index.json").read_text(encoding="utf-8"))


def check_files(images: Mapping[str, list[str] | None], lora: str | None) -> None:
    """Reject paths of missing files; images by their options."""
    for option, path in ((option, path) for option, paths in images.items() for path in paths or []):
        if not Path(path).is_file():
            raise InputError(f"{option} {path}: there is no such file; give a PNG or JPEG")
    if lora is not None and not Path(lora).exists():
        raise InputError(f"--lora {lora}: there is no such file; give a .safetensors file, or its folder")


def check_guides(values: Mapping[str, Any]) -> None:
    """Reject incomplete options of a ControlNet or an IP-Adapter, and those without a content frame to generate."""
    if values["controlnet"] and not values["control_image"]:
        raise InputError(f"--controlnet {values['controlnet']}: it needs an image; give --control-image")
    adapter, image = values["ip_adapter"], values["ip_adapter_image"]
    if bool(adapter) != bool(image):
        raise InputError(f"--ip-adapter {adapter}, --ip-adapter-image {image}: give both, or neither")
    if adapter and not Path(adapter).is_file():
        raise InputError(f"--ip-adapter {adapter}: there is no such file; give a .safetensors file")
    if guide := "--control-image" if values["control_image"] else "--ip-adapter" if adapter else None:
        for name in ("image", "content_from", "interpolate", "frames"):
            if values[name]:
                raise InputError(f"{guide} and --{name.replace('_', '-')}: give one of the two")


def name_of(job: Job) -> str:
    """The name of a video's file, without suffix."""
    use = job.use or Use()
    file = job.image or use.content_from or use.video or use.motion_from
    weight = "" if use.weight is None else f"-{round(100 * use.weight)}"
    return f"{slug(job.condition, Path(file).stem if file else '')}-{job.seed}{weight}"


def slug(value: str | int | None, image: str = "") -> str:
    """The name of an image and a condition as a file name: lower-case letters, digits and dashes, 60 at most."""
    condition = f"class-{value}" if isinstance(value, int) else value or ""
    return re.sub(r"[^a-z0-9]+", "-", f"{image} {condition}".lower()).strip("-")[:60] or "video"
