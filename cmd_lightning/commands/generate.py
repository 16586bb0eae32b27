"""`generate`: videos from prompts, classes or images, each with a record of how it was made."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cmd_lightning.errors import InputError, check_positive, reason

if TYPE_CHECKING:
    from torch import Tensor

    from cmd_lightning.pipeline import CMDPipeline


def generate(
    model: str,
    *,
    prompt: list[str] | None = None,
    prompts: str | None = None,
    class_: list[int] | None = None,
    image: list[str] | None = None,
    background: str = "white",
    num: int = 1,
    seed: int = 0,
    steps: dict[str, int] | None = None,
    guidance: dict[str, float] | None = None,
    solver: Literal["ddim", "dpm++", "unipc"] | None = None,
    lora: str | None = None,
    frame_decoder: str | None = None,
    dtype: Literal["float32", "bfloat16"] = "float32",
    compile_: bool = False,
    batch_size: int = 8,
    out: str = "outputs/generate",
) -> None:
    """Writes DIR/<slug>-<seed>.mp4 and .json for each video.

    Args:
        model: Model folder, as written by export, or a name of the zoo, e.g. shapes32.
        prompt: Captions.
        prompts: Text file with a caption a line.
        class_: Class ids, for a model of classes.
        image: Images to set in motion, resized and cropped to the model's size.
        background: Colour behind transparent pixels of images, a name or #rrggbb.
        num: Videos for each prompt, class or image.
        seed: Seed of the first video of each; the others count up.
        steps: Denoising steps, by default the model's own, else 50 for content and 100 for motion.
        guidance: Guidance scale, 1 is none; by default the model's own, else 4 for content and 1 for motion.
        solver: Solver of both stages, by default the model's own; dpm++ and unipc are for few steps, such as 15.
        lora: Adapters for the Stable Diffusion in a model: a .safetensors file in their public layout, or its folder.
        frame_decoder: Image autoencoder that decodes the frames in the place of the model's, such as a tiny one for the
            same latents: a folder in diffusers' layout, or a hub id.
        dtype: What the networks compute in; bfloat16 is for GPUs.
        compile_: Compile the networks first: minutes, which pay for many videos.
        batch_size: Videos made at once; it changes nothing but speed and memory.
        out: Folder for the videos.
    """
    values = conditions(prompt, prompts, class_)
    check_positive(num=num, batch_size=batch_size)
    if not 0 <= seed < 2**62:
        raise InputError(f"--seed {seed}: give a whole number from 0 to 2**62 - 1")
    from cmd_lightning import video_io
    from cmd_lightning.commands.files import make_folder, open_model, unused
    from cmd_lightning.pipeline import SCHEDULERS
    from cmd_lightning.provenance import provenance, weights_sha256
    from cmd_lightning.stable_diffusion import StableDiffusion
    from cmd_lightning.zoo import model_folder

    pipeline = open_model(model, dtype)
    if lora is not None:
        add_lora(pipeline, Path(lora))
    if solver is not None:
        pipeline.use_solver(solver)
    if frame_decoder is not None:
        decoder: Any = StableDiffusion(frame_decoder, option="--frame-decoder").vae()
        pipeline.use_frame_decoder(decoder.to(pipeline.dtype))
    if compile_:
        pipeline.compile_networks()
    pictures = None if image is None else [read_picture(path, pipeline.size, background) for path in image]
    if pictures is not None and len(values) not in (1, len(pictures)):
        raise InputError(f"--image: {len(pictures)} pictures for {len(values)} prompts; give as many, or one prompt")
    count = max(len(values), len(pictures or []))
    jobs = [(i, seed + copy) for i in range(count) for copy in range(num)]
    folder = make_folder(Path(out), "--out")
    stages: tuple[Literal["content", "motion"], ...] = ("content", "motion") if pictures is None else ("motion",)
    sampling = {stage: pipeline.sampling(stage, steps, guidance) for stage in stages}
    steps = {stage: number for stage, (number, _) in sampling.items()}
    guidance = {stage: scale for stage, (_, scale) in sampling.items()}
    about = {
        "steps": steps,
        "guidance": guidance,
        "solver": {stage: type(getattr(pipeline, SCHEDULERS[stage])).__name__ for stage in stages},
        "frame_decoder": frame_decoder,
        "dtype": dtype,
        "compiled": compile_,
        "weights": weights_sha256(model_folder(model)) | ({} if lora is None else weights_sha256(lora)),
        "device": str(pipeline.device),
    } | provenance()
    written: set[Path] = set()
    for start in range(0, len(jobs), batch_size):
        batch = jobs[start : start + batch_size]
        chosen = [values[i % len(values)] for i, _ in batch]
        arguments = call_arguments(chosen, [pictures[i] for i, _ in batch] if pictures else None)
        arguments |= {"seeds": [s for _, s in batch], "num_inference_steps": steps, "guidance_scale": guidance}
        result: Any = pipeline(**arguments)  # not a tuple, which only `return_dict=False` gives
        for (i, used), value, video in zip(batch, chosen, result.frames, strict=True):
            name = slug(value, Path(image[i]).stem if image else "")
            path = unused(folder / f"{name}-{used}.mp4", written)
            video_io.write_video(path, video.cpu(), pipeline.config.fps)
            record = {"model": model, "condition": value, "seed": used}
            path.with_suffix(".json").write_text(json.dumps(record | about, indent=2) + "\n")
            print(path)


def conditions(prompt: list[str] | None, prompts: str | None, classes: list[int] | None) -> list[Any]:
    """What to generate from, one entry a video; a single None for an unconditional model."""
    given = [name for name, value in (("prompt", prompt), ("prompts", prompts), ("class", classes)) if value]
    if len(given) > 1:
        raise InputError(f"--{given[0]} and --{given[1]}: give one of the two")
    if prompts is None:
        return prompt or classes or [None]
    if not Path(prompts).is_file():
        raise InputError(f"--prompts {prompts}: there is no such file; give a text file with a caption a line")
    try:
        lines = [line.strip() for line in Path(prompts).read_text(encoding="utf-8").splitlines()]
    except UnicodeDecodeError:
        raise InputError(f"--prompts {prompts}: it is not UTF-8 text; save it as UTF-8") from None
    if not any(lines):
        raise InputError(f"--prompts {prompts}: the file has no caption; write one a line")
    return [line for line in lines if line]


def call_arguments(values: list[Any], pictures: list[Tensor] | None) -> dict[str, Any]:
    """The pipeline's arguments for these conditions."""
    arguments: dict[str, Any] = {}
    if pictures is not None:
        import torch

        arguments["image"] = torch.stack(pictures)
    if values[0] is not None:
        arguments["prompt" if isinstance(values[0], str) else "class_labels"] = values
    elif pictures is None:
        arguments["num_videos_per_prompt"] = len(values)
    return arguments


def add_lora(pipeline: CMDPipeline, path: Path) -> None:
    """Loads adapters into the content model."""
    from diffusers import UNet2DConditionModel

    file = path / "pytorch_lora_weights.safetensors" if path.is_dir() else path
    if not file.is_file():
        raise InputError(f"--lora {path}: there is no {file.name}; give a .safetensors file, or its folder")
    if not isinstance(pipeline.unet, UNet2DConditionModel):
        raise InputError(f"--lora {path}: this model's content model is no Stable Diffusion U-Net; leave it out")
    try:
        pipeline.load_lora_weights(file.parent, weight_name=file.name)
    except Exception as error:  # of many kinds: of safetensors, peft and diffusers
        raise InputError(f"--lora {path}: it cannot be used with this model ({reason(error)}); give another") from error
    if not pipeline.get_active_adapters():
        raise InputError(f"--lora {path}: it holds no adapters for a Stable Diffusion U-Net; give another")


def read_picture(path: str, size: tuple[int, int], background: str = "white") -> Tensor:
    """An image `(3, H, W)` in [-1, 1]: the shorter side resized, the middle cropped, to `size` (H, W)."""
    from cmd_lightning.data.clips import resize_and_crop
    from cmd_lightning.image_io import read_image
    from cmd_lightning.latent_space import from_uint8

    try:
        pixels = read_image(path, background)
    except InputError as error:
        raise InputError(f"--image {path}: it cannot be read as an image ({error}); give a PNG or JPEG") from error
    return from_uint8(resize_and_crop(pixels[:, None], size)[:, 0])


def slug(value: str | int | None, picture: str = "") -> str:
    """A picture's name and a condition as a file name: lower-case letters, digits and dashes, 60 at most."""
    condition = f"class-{value}" if isinstance(value, int) else value or ""
    return re.sub(r"[^a-z0-9]+", "-", f"{picture} {condition}".lower()).strip("-")[:60] or "video"
