"""`export`: the checkpoints of the three stages to a folder in diffusers' layout."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from cmd_lightning.commands.files import check_new, check_sampling, new_folder
from cmd_lightning.errors import InputError
from cmd_lightning.zoo import models as shipped

if TYPE_CHECKING:
    from cmd_lightning.pipeline import CMDPipeline
    from cmd_lightning.pipeline.request import StageName

GIVE = "give one each of autoencoder, content and motion, or a model and the stages to replace, then the folder"
EXAMPLES = ("a dog runs along the beach", "a red circle moves left")
"""Prompts to suggest for a text-conditioned model; the one with more known words is used."""


def export(
    checkpoints: list[str],
    out: str,
    *,
    half: bool = False,
    steps: dict[str, int] | None = None,
    guidance: dict[str, float] | None = None,
) -> None:
    """Writes a model folder from the checkpoints of the autoencoder, content and motion stages, in any order.

    A model (folder or zoo name) may replace checkpoints: it provides the stages that they do not hold.

    Averaged weights are used where a checkpoint has them. `CMDPipeline.from_pretrained` opens the folder, and if Stable
    Diffusion was fine-tuned, `StableDiffusionPipeline` opens its parts. Adapters are merged into the U-Net, and also
    stored in `lora` for use with other base models.

    Args:
        checkpoints: The three checkpoints, or fewer and a model.
        out: Folder to write, new or empty.
        half: Store the weights in float16, half the size; the model still computes in float32.
        steps: The model's default number of denoising steps; if not given, that of a distilled stage or of the model
            that provides the stage, else 50 for content and 100 for motion.
        guidance: The model's default guidance scale; if not given, that of a distilled stage or of the model that
            provides the stage, else 4 for content and 1 for motion.
    """
    check_sampling(steps, guidance)
    for path in checkpoints:
        if not (Path(path).exists() or path in shipped()):
            raise InputError(f"CHECKPOINTS {path}: there is no such file; give one that `fit` wrote")
    if len(checkpoints) != 3 and all(Path(path).is_file() for path in checkpoints):
        raise InputError(f"CHECKPOINTS: {len(checkpoints)} given; {GIVE}")
    check_new(Path(out), "OUT")
    from safetensors.torch import save_file

    from cmd_lightning.cli import imports
    from cmd_lightning.components.checkpoints import PARTS as STAGES
    from cmd_lightning.components.checkpoints import is_model, stage_of
    from cmd_lightning.components.cmd import compose, load_stages

    models = [path for path in checkpoints if is_model(path)]
    trained = {stage_of(path): path for path in checkpoints if path not in models}
    by_stage = dict.fromkeys(STAGES, models[0]) | trained if models else trained
    if len(models) > 1 or len(models) + len(trained) != len(checkpoints) or set(by_stage) != set(STAGES):
        raise InputError(f"CHECKPOINTS: these hold {', '.join([*trained, *models]) or 'no stage'}; {GIVE}")
    stages = load_stages(**by_stage)
    pipeline = compose(stages)
    stage_names: tuple[StageName, ...] = ("content", "motion")
    for name in stage_names:
        pipeline.sampling(name, steps, guidance)  # raises if the model does not allow that many steps
    own = pipeline.config
    pipeline.register_to_config(
        steps=(own.steps or {}) | (steps or {}) or None, guidance=(own.guidance or {}) | (guidance or {}) or None
    )
    if half:
        halve(pipeline)
    with new_folder(Path(out), "out") as folder:
        pipeline.save_pretrained(folder)
        if adapters := stages["content"].adapters:
            (folder / "lora").mkdir()
            save_file(adapters, folder / "lora/pytorch_lora_weights.safetensors", {"format": "pt"})
    words = [shlex.quote(out), example(pipeline), *(f"--import {module}" for module in imports())]
    print(f"wrote {out}; try:\ncmd-lightning generate {' '.join(words)}")


def example(pipeline: CMDPipeline) -> str:
    """Options of `generate` to suggest for a model."""
    encoder = next((encoder for encoder in pipeline.encoders.values() if encoder is not None), None)
    if encoder is None:
        return "--num 4"
    if encoder.field == "label":
        return "--class 0 --num 4"
    return f'--prompt "{min(EXAMPLES, key=lambda prompt: len(encoder.unseen(prompt)))}" --num 4'


def halve(pipeline: CMDPipeline) -> None:
    """Casts every part to float16; all weights must stay finite."""
    import torch

    for name, part in pipeline.components.items():
        if not isinstance(part, torch.nn.Module):
            continue
        part.half()
        for key, value in part.state_dict().items():
            if not value.isfinite().all():
                raise InputError(f"--half: {name}.{key} has values beyond float16; export without --half")
