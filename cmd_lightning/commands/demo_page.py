"""The report of a demo, from the files that its commands wrote."""

from __future__ import annotations

import json
from dataclasses import astuple
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from cmd_lightning.commands.generate import slug
from cmd_lightning.commands.strips import strips
from cmd_lightning.components import CMD
from cmd_lightning.data.webvid import WebVidDataModule
from cmd_lightning.metrics.reconstruction import mean_frame, psnr
from cmd_lightning.provenance import provenance, weights_sha256
from cmd_lightning.report import Panel, write_report
from cmd_lightning.shapes.reader import Reading, ShapesReader
from cmd_lightning.shapes.scenes import unseen
from cmd_lightning.video_encoding import gif_bytes
from cmd_lightning.video_io import read_video
from cmd_lightning.zoo import model_folder

FPS = 8
SHOWN = 6
"""Test clips on the page."""


def write_page(folder: Path, settings: dict[str, Any]) -> str:
    """Writes FOLDER/report.html and FOLDER/scores.json; returns a text with the path and the main scores."""
    seed, prompts = settings["seed"], settings["prompts"]
    videos = [read_video(folder / "samples" / f"{slug(prompt)}-{seed}.mp4") for prompt in prompts]
    found = dict(zip(prompts, ShapesReader.from_pretrained().read(torch.stack(videos)), strict=True))
    tests = json.loads((folder / "cmd" / "test.json").read_text())
    test = {entry["metric"]: entry["value"] for entry in tests}
    scores = {"reconstruction": test, "samples": {"read_as_asked": sum(found[p] == asked(p) for p in found)}}
    model = model_folder(settings["model"])
    about = protocol(settings, weights := weights_sha256(model))
    record = {"scores": scores, "protocol": about | {"weights": weights}}
    (folder / "scores.json").write_text(json.dumps(record, indent=2) + "\n")
    page = write_report(
        folder / "report.html",
        "demo.html",
        title="Content-motion latent diffusion",
        settings=settings,
        scores=scores,
        about=about,
        sampling=json.loads((model / "model_index.json").read_text()),
        guesses=round(1 / ShapesReader.chance),
        samples=[sample(prompt, video, found[prompt], seed) for prompt, video in zip(prompts, videos, strict=True)],
        strips=shown(folder, settings),
    )
    rows = [
        ("reconstruction", f"{test['psnr']:.2f} dB", f"SSIM {test['ssim']:.3f}"),
        ("  the mean frame instead", f"{test['psnr_of_mean_frame']:.2f} dB", ""),
        ("  the best single frame", f"{test['psnr_of_best_frame']:.2f} dB", ""),
        ("samples classified correctly", f"{scores['samples']['read_as_asked']} of {len(found)}", ""),
    ]
    table = "\n".join(f"  {name:26}{value:>10}  {remark}".rstrip() for name, value, remark in rows)
    taken = sum(command["seconds"] for command in settings["commands"])
    head = f"The demo took {taken / 60:.1f} minutes. {settings['evaluated']} test clips:"
    return f"\n{head}\n{table}\n\nLook at {page}"


def asked(prompt: str) -> Reading:
    """The correct classification of a video of "a [size] colour shape moves direction"."""
    thing, direction = prompt.split(" moves ")
    *_, colour, shape = thing.split()
    return Reading(shape, colour, direction)


def sample(prompt: str, video: Tensor, reading: Reading, seed: int) -> Panel:
    """The video of a prompt, with its classification by the reader."""
    words = f"{prompt} (seed {seed}); read as: {reading.colour} {reading.shape}, {reading.direction}"
    if astuple(asked(prompt)) in unseen():
        words += "; a combination held out of training"
    return Panel(gif_bytes(video, FPS, 6), words)


def shown(folder: Path, settings: dict[str, Any]) -> list[Panel]:
    """Panels of some test clips."""
    config = yaml.safe_load((folder / "cmd.yaml").read_text())
    number, levels = settings["evaluated"], len(settings["levels"])
    data = WebVidDataModule(**config["data"]["init_args"] | {"batch_size": number})
    every = next(iter(data.test_dataloader()))
    chosen = [i for i in range(number) if i % (number // levels) < SHOWN // levels]  # one level follows the other
    batch = {"video": every["video"][chosen], "caption": [every["caption"][i] for i in chosen]}
    rows = CMD(**config["model"]["init_args"]).preview(batch)
    gained = psnr(rows["reconstruction"], rows["original"]), psnr(mean_frame(rows["original"]), rows["original"])
    texts = [
        f"{caption}; reconstruction {value:.2f} dB, mean frame {floor:.2f} dB"
        for caption, value, floor in zip(batch["caption"], *gained, strict=True)
    ]
    return strips(rows, batch["caption"], texts, FPS, 3)


def protocol(settings: dict[str, Any], weights: dict[str, str]) -> dict[str, str]:
    """The protocol of the numbers on the page."""
    seed, levels = settings["seed"], settings["levels"]
    clips = " and ".join(f"{settings['evaluated'] // len(levels)} {level}" for level in levels)
    return {
        "data": f"procedural world, seed {seed}: {clips} clips to test; 16 frames of 32x32 pixels, 8 per second",
        "seeds": f"{seed} for the clips and for every video",
        "weights": f"{settings['model']}: sha256 of "
        + ", ".join(f"{name.partition('/')[0]} {digest[:12]}" for name, digest in weights.items()),
        **provenance(),
    }
