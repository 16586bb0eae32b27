"""`generate`: videos from prompts, classes or images, each with a record of how it was made."""

from __future__ import annotations

import json
import re
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cmd_lightning.commands.files import (
    check_sampling,
    make_folder,
    open_model,
    read_prompts,
    unused,
    warn,
)
from cmd_lightning.commands.loading import loading
from cmd_lightning.errors import InputError, InputWarning, check_positive, reason
from cmd_lightning.zoo import model_folder

if TYPE_CHECKING:
    from torch import Tensor

    from cmd_lightning.pipeline import CMDPipeline
    from cmd_lightning.pipeline.request import StageName


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
    """Write OUT/<slug>-<seed>.mp4 and .json for each video.

    Args:
        model: Model folder, as written by export, or a name of the zoo, e.g. shapes32.
        prompt: Captions.
        prompts: Text file with a caption per line; blank lines do not count.
        class_: Class ids, for a class-conditional model.
        image: Images to animate, resized and cropped to the model's size.
        background: Colour behind transparent pixels of images, a name or #rrggbb.
        num: Videos for each prompt, class or image.
        seed: Seed of the first video for each prompt, class or image; the next videos use the next numbers.
        steps: Denoising steps, by default the model's own, else 50 for content and 100 for motion.
        guidance: Guidance scale, 1 or less disables it; by default the model's own, else 4 for content and 1 for
            motion.
        solver: Solver of both stages, by default the model's own; dpm++ and unipc are for few steps, such as 15.
            Models trained by flow matching, such as shapes32, have only their own.
        lora: LoRA adapters for the model's Stable Diffusion: a .safetensors file in the public layout, or its folder.
        frame_decoder: Image autoencoder that decodes the frames instead of the model's, such as a tiny one for the same
            latents: a folder in diffusers' layout, or a hub id.
        dtype: Data type in which the networks compute; bfloat16 is for GPUs.
        compile_: Compile the networks first; takes minutes, and is worth it for many videos.
        batch_size: Videos generated at once; affects only speed and memory.
        out: Folder for the videos.
    """
    values = conditions(prompt, prompts, class_)
    check_positive(num=num, batch_size=batch_size)
    check_sampling(steps, guidance)
    if not 0 <= seed < 2**62:
        raise InputError(f"--seed {seed}: give a whole number from 0 to 2**62 - 1")
    check_model(model, values, image is not None)
    check_files(image or [], lora)
    if image is not None and len(values) not in (1, len(image)):
        raise InputError(f"--image: {len(image)} images for {len(values)} prompts; give one prompt, or one per image")
    folder = make_folder(Path(out), "--out")
    with loading(model):
        from cmd_lightning import video_encoding
        from cmd_lightning.latent_space import to_uint8
        from cmd_lightning.pipeline.images import fit_image
        from cmd_lightning.pipeline.request import SCHEDULERS
        from cmd_lightning.provenance import provenance, weights_sha256
        from cmd_lightning.stable_diffusion import StableDiffusion

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
    fitted = [fit_image(read_picture(path, background), pipeline.size) for path in image or []]
    count = max(len(values), len(fitted))
    jobs = [(i, seed + copy) for i in range(count) for copy in range(num)]
    stages: tuple[StageName, ...] = ("motion",) if fitted else ("content", "motion")
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
    notes = [pipeline.remarks(value, stages) for value in values]
    resized = [
        [f"--image {path}: {text}" for text in texts] for path, (_, texts) in zip(image or [], fitted, strict=True)
    ]
    for text in dict.fromkeys(text for texts in (*notes, *resized) for text in texts):
        warn(text)
    written: set[Path] = set()
    for start in range(0, len(jobs), batch_size):
        batch = jobs[start : start + batch_size]
        chosen = [values[i % len(values)] for i, _ in batch]
        arguments = call_arguments(chosen, [fitted[i][0] for i, _ in batch] if fitted else None)
        arguments |= {"seeds": [s for _, s in batch], "num_inference_steps": steps, "guidance_scale": guidance}
        arguments["output_type"] = "latent"
        with warnings.catch_warnings(action="ignore", category=InputWarning):  # reported above, for all batches at once
            result: Any = pipeline(**arguments)  # not a tuple, which only `return_dict=False` gives
        videos = to_uint8(pipeline.decode(result.content, result.frames)).cpu()
        for (i, used), value, video in zip(batch, chosen, videos, strict=True):
            name = slug(value, Path(image[i]).stem if image else "")
            path = unused(folder / f"{name}-{used}.mp4", written)
            video_encoding.write_video(path, video, pipeline.config.fps)
            record = {"model": model, "condition": value, "image": image[i] if image else None, "seed": used}
            record["warnings"] = [*notes[i % len(values)], *(resized[i] if image else [])]
            path.with_suffix(".json").write_text(json.dumps(record | about, indent=2) + "\n")
            print(path)


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


def read_picture(path: str, background: str = "white") -> Tensor:
    """An image file as `(3, H, W)`, uint8."""
    from cmd_lightning.image_io import read_image

    try:
        return read_image(path, background)
    except InputError as error:
        raise InputError(f"--image {path}: it cannot be read as an image ({error}); give a PNG or JPEG") from error


def slug(value: str | int | None, picture: str = "") -> str:
    """A picture's name and a condition as a file name: lower-case letters, digits and dashes, 60 at most."""
    condition = f"class-{value}" if isinstance(value, int) else value or ""
    return re.sub(r"[^a-z0-9]+", "-", f"{picture} {condition}".lower()).strip("-")[:60] or "video"
