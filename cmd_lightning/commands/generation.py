"""The computation of `generate`: opens the model, and writes videos in batches, each with its record."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cmd_lightning.commands.files import open_model, tell, warn
from cmd_lightning.commands.loading import loading
from cmd_lightning.commands.records import Job, Options, described, record, write_record
from cmd_lightning.commands.uses import Use, made
from cmd_lightning.errors import InputError, InputWarning, reason

if TYPE_CHECKING:
    from torch import Tensor

    from cmd_lightning.pipeline import CMDPipeline
    from cmd_lightning.pipeline.request import StageName

Images = Mapping[str, tuple["Tensor", list[str]]]
"""By file: an image in the model's size, `(3, height, width)` in [0, 1], and notes on how it was changed."""


@dataclass(frozen=True)
class Run:
    """The videos of one call of `generate`.

    Args:
        options: How the model is opened.
        jobs: The videos.
        paths: File of each; its record is next to it.
        batch_size: Videos computed at once.
        steps: Denoising steps by stage; None for the model's own.
        guidance: Guidance scales by stage; None for the model's own.
        resume: Whether to skip videos that exist with their record.
    """

    options: Options
    jobs: Sequence[Job]
    paths: Sequence[Path]
    batch_size: int = 8
    steps: Mapping[str, int] | None = None
    guidance: Mapping[str, float] | None = None
    resume: bool = False


def work(run: Run, part: int = 0, parts: int = 1) -> None:
    """Writes the videos of a run, or of one of several parts of it.

    Batches are the same for every part and for a resumed run, so that each video is the same, too.

    Raises:
        InputError: The model does not support the request, or a video exists that was generated with other options.
    """
    with loading(run.options.model):
        from cmd_lightning import video_encoding

        pipeline = opened(run.options)
    images = fitted(pipeline, run)
    stages = stages_of(pipeline, run.jobs[0])
    sampling = {stage: pipeline.sampling(stage, run.steps, run.guidance) for stage in stages}
    steps: dict[str, int] = {stage: number for stage, (number, _) in sampling.items()}
    guidance: dict[str, float] = {stage: scale for stage, (_, scale) in sampling.items()}
    about = described(pipeline, run.options, steps, guidance)
    notes = {job: [*prompt_notices(pipeline, job, stages), *resized(job, images)] for job in run.jobs}
    if part == 0:
        for text in dict.fromkeys(text for texts in notes.values() for text in texts):
            warn(text)
    there = {path for job, path in zip(run.jobs, run.paths, strict=True) if run.resume and is_there(path, job, about)}
    if there and part == 0:
        tell(f"{len(there)} of {len(run.jobs)} videos exist already")
    starts = range(0, len(run.jobs), run.batch_size)
    for start in starts[part::parts]:
        batch = slice(start, start + run.batch_size)
        jobs, paths = run.jobs[batch], run.paths[batch]
        if there.issuperset(paths):
            continue
        videos, changes = videos_of(pipeline, run.options, jobs, images, steps, guidance)
        for text in changes:
            warn(text)
        for place, (path, video) in enumerate(zip(paths, videos, strict=True)):
            if path not in there:
                # The record first: a video without one is not from this program, and is never replaced.
                write_record(record_path(path), record(about, jobs, place, video, [*notes[jobs[place]], *changes]))
                video_encoding.write_video(path, video, pipeline.config.fps)
                print(path, flush=True)


def videos_of(
    pipeline: CMDPipeline,
    options: Options,
    jobs: Sequence[Job],
    images: Images,
    steps: Mapping[str, int],
    guidance: Mapping[str, float],
) -> tuple[Tensor, list[str]]:
    """A batch of videos `(B, 3, T, H, W)`, uint8, and notes on how their clips were changed."""
    from cmd_lightning.latent_space import to_uint8

    arguments: dict[str, Any] = {"seeds": [job.seed for job in jobs], "output_type": "latent"}
    arguments |= {"num_inference_steps": steps, "guidance_scale": guidance}
    for name in ("image", "control_image"):
        if getattr(jobs[0], name) is not None:
            arguments[name] = [images[getattr(job, name)][0] for job in jobs]
    if "control_image" in arguments:
        arguments["controlnet_conditioning_scale"] = options.controlnet_scale
    if options.ip_adapter_image is not None:
        arguments["ip_adapter_image"] = read_image_file(
            options.ip_adapter_image, options.background, "--ip-adapter-image"
        )
    if jobs[0].condition is not None:
        name = "prompt" if isinstance(jobs[0].condition, str) else "class_labels"
        arguments[name] = [job.condition for job in jobs]
    elif "image" not in arguments and not (jobs[0].use and jobs[0].use.files):
        arguments["num_videos_per_prompt"] = len(jobs)
    if uses := [job.use for job in jobs if job.use is not None]:
        return made(pipeline, uses, arguments)
    with warnings.catch_warnings(action="ignore", category=InputWarning):  # reported for all batches at once
        output: Any = pipeline(**arguments)  # not a tuple, which only `return_dict=False` gives
    return to_uint8(pipeline.decode(output.content, output.frames)).cpu(), []


def stages_of(pipeline: CMDPipeline, job: Job) -> list[StageName]:
    """The stages that run for a job, of those that the model has."""
    from cmd_lightning.pipeline.request import SCHEDULERS

    wanted = (job.use or Use()).stages(job.image is not None)
    return [stage for stage in wanted if getattr(pipeline, SCHEDULERS[stage]) is not None]


def is_there(path: Path, job: Job, about: Mapping[str, Any]) -> bool:
    """Whether a video and its record are there.

    Raises:
        InputError: The record is that of another video, or the video has none.
    """
    file = record_path(path)
    if not file.is_file():
        if path.exists():
            raise InputError(f"--resume: {path} has no record next to it; move it, or give another --out")
        return False
    try:
        found = {"control_image": None} | json.loads(file.read_text(encoding="utf-8"))
        found["options"] = asdict(Options(**found["options"]))  # with options that are newer than the record
        wanted = asdict(job)
        wanted |= {name: about[name] for name in ("steps", "guidance", "solver", "weights", "options")}
        other = next((name for name, value in wanted.items() if found[name] != value), None)
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"--resume: {file} is not a video's record; give another --out") from error
    if other:
        raise InputError(f"--resume: {path} was made with {other} {found[other]}; give the same, or another --out")
    return path.exists()


def record_path(path: Path) -> Path:
    """Where the record of a video is; that of a folder of frames is next to the folder."""
    return path.parent / f"{path.name.removesuffix(path.suffix)}.json"


def opened(options: Options) -> CMDPipeline:
    """The pipeline of a model.

    Raises:
        InputError: An option is not for this model, or its file cannot be read.
    """
    from cmd_lightning.stable_diffusion import StableDiffusion

    pipeline = open_model(options.model, options.dtype)
    if options.lora is not None:
        add_lora(pipeline, Path(options.lora))
    if options.controlnet is not None:
        add_controlnet(pipeline, options.controlnet)
    if options.ip_adapter is not None:
        path = Path(options.ip_adapter)
        pipeline.load_ip_adapter(str(path.parent), subfolder="", weight_name=path.name)
        pipeline.set_ip_adapter_scale(options.ip_adapter_scale)
    if options.solver is not None:
        pipeline.use_solver(options.solver)
    if options.frame_decoder is not None:
        decoder: Any = StableDiffusion(options.frame_decoder, option="--frame-decoder").vae()
        pipeline.use_frame_decoder(decoder.to(pipeline.dtype))
    if options.compiled:
        pipeline.compile_networks()
    return pipeline


def add_lora(pipeline: CMDPipeline, path: Path) -> None:
    """Loads adapters into the content model."""
    from diffusers import UNet2DConditionModel

    file = path / "pytorch_lora_weights.safetensors" if path.is_dir() else path
    if not file.is_file():
        raise InputError(f"--lora {path}: there is no {file.name}; give a .safetensors file, or its folder")
    if not isinstance(pipeline.unet, UNet2DConditionModel):
        raise InputError(f"--lora {path}: this model's content model is not a Stable Diffusion U-Net; leave it out")
    try:
        pipeline.load_lora_weights(file.parent, weight_name=file.name)
    except Exception as error:  # of many kinds: of safetensors, peft and diffusers
        raise InputError(f"--lora {path}: it cannot be used with this model ({reason(error)}); give another") from error
    if not pipeline.get_active_adapters():
        raise InputError(f"--lora {path}: it contains no adapters for a Stable Diffusion U-Net; give another")


def add_controlnet(pipeline: CMDPipeline, name: str) -> None:
    """Adds a ControlNet to the content model."""
    from diffusers import ControlNetModel

    from cmd_lightning.networks.stock import find
    from cmd_lightning.pretrained import Repository

    source = Repository(name, option="--controlnet", options={"torch_dtype": pipeline.dtype})
    _, part = find(source, "controlnet", ("ControlNetModel",))
    controlnet: Any = source.read(ControlNetModel.from_pretrained, part)
    pipeline.register_modules(controlnet=controlnet.to(pipeline.device))


def fitted(pipeline: CMDPipeline, run: Run) -> Images:
    """The images of a run to animate or for a ControlNet, each read once."""
    from cmd_lightning.pipeline.images import fit_image

    files = {file: option for job in run.jobs for option, file in images_of(job).items()}
    background = run.options.background
    return {file: fit_image(read_image_file(file, background, option), pipeline.size) for file, option in files.items()}


def images_of(job: Job) -> dict[str, str]:
    """The images of a job, by their options."""
    given = {"--image": job.image, "--control-image": job.control_image}
    return {option: file for option, file in given.items() if file is not None}


def read_image_file(path: str, background: str = "white", option: str = "--image") -> Tensor:
    """An image file as `(3, H, W)`, uint8."""
    from cmd_lightning.image_io import read_image

    try:
        return read_image(path, background)
    except InputError as error:
        raise InputError(f"{option} {path}: it cannot be read as an image ({error}); give a PNG or JPEG") from error


def prompt_notices(pipeline: CMDPipeline, job: Job, stages: Sequence[StageName]) -> list[str]:
    """Notes on parts of a prompt that the stages do not use."""
    return pipeline.remarks(job.condition, stages) if job.condition is not None else []


def resized(job: Job, images: Images) -> list[str]:
    """Notes on how the images of a job were changed."""
    return [f"{option} {file}: {text}" for option, file in images_of(job).items() for text in images[file][1]]
