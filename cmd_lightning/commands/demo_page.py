"""The page about a demo, made from the files that its commands left."""

from __future__ import annotations

import csv
import json
from dataclasses import astuple
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from cmd_lightning.commands.generate import slug
from cmd_lightning.components import CMD
from cmd_lightning.data.webvid import WebVidDataModule
from cmd_lightning.latent_space import to_uint8
from cmd_lightning.metrics.reconstruction import mean_frame, psnr
from cmd_lightning.provenance import provenance, weights_sha256
from cmd_lightning.report import Panel, Plot, Series, write_report
from cmd_lightning.shapes.reader import Reading, ShapesReader
from cmd_lightning.shapes.scenes import unseen
from cmd_lightning.video_io import gif_bytes, read_video
from cmd_lightning.zoo import model_folder

Log = dict[str, list[tuple[int, float]]]
"""The logged values with their steps, by name."""

Scores = dict[str, dict[str, float]]

FPS = 8
TITLES = {"autoencoder": "Autoencoder", "content": "Content model", "motion": "Motion model"}
"""The stages, in order, as the page calls them."""

SHOWN = 6
"""Test clips on the page."""


def write_page(folder: Path, settings: dict[str, Any]) -> str:
    """Writes FOLDER/report.html and FOLDER/scores.json; gives their place and the headline scores, for people."""
    stages = tuple(TITLES) if settings["fit"] else ()
    logs = {name: read_log(folder / "logs" / name / "metrics.csv") for name in (*stages, "cmd")}
    seed, prompts = settings["seed"], settings["prompts"]
    videos = [read_video(folder / "samples" / f"{slug(prompt)}-{seed}.mp4") for prompt in prompts]
    found = dict(zip(prompts, ShapesReader.from_pretrained().read(torch.stack(videos)), strict=True))
    scores = read_scores(logs) | {"samples": {"read_as_asked": sum(found[p] == asked(p) for p in found)}}
    model = model_folder(settings["model"])
    about = protocol(settings, weights := weights_sha256(model))
    record = {"scores": scores, "protocol": about | {"weights": weights}}
    (folder / "scores.json").write_text(json.dumps(record, indent=2) + "\n")
    page = write_report(
        folder / "report.html",
        "demo.html",
        title="Content-motion latent diffusion, " + ("trained in ten minutes" if settings["fit"] else "as it ships"),
        settings=settings,
        scores=scores,
        about=about,
        fits=fits(scores, settings) if stages else None,
        sampling=json.loads((model / "model_index.json").read_text()),
        guesses=round(1 / ShapesReader.chance),
        samples=[sample(prompt, video, found[prompt], seed) for prompt, video in zip(prompts, videos, strict=True)],
        strips=strips(folder, settings),
        losses=losses(scores) if stages else None,
        curves=[curve(stage, logs[stage]) for stage in stages],
    )
    test = scores["reconstruction"]
    rows = [
        ("reconstruction", f"{test['psnr']:.2f} dB", f"SSIM {test['ssim']:.3f}"),
        ("  the mean frame instead", f"{test['psnr_of_mean_frame']:.2f} dB", ""),
        ("  the best single frame", f"{test['psnr_of_best_frame']:.2f} dB", ""),
        *((f"{stage} loss", f"{scores[stage]['loss']:.4f}", "validation") for stage in stages[1:]),
        ("samples read as asked", f"{scores['samples']['read_as_asked']} of {len(found)}", ""),
    ]
    table = "\n".join(f"  {name:26}{value:>10}  {remark}".rstrip() for name, value, remark in rows)
    taken = sum(command["seconds"] for command in settings["commands"])
    head = f"The demo took {taken / 60:.1f} minutes. {settings['evaluated']} test clips:"
    return f"\n{head}\n{table}\n\nLook at {page}"


def read_log(path: Path) -> Log:
    """The logged values with their steps, by name."""
    log: Log = {}
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            for name, value in row.items():
                if value and name not in ("step", "epoch"):
                    log.setdefault(name, []).append((int(row["step"]), float(value)))
    return log


def read_scores(logs: dict[str, Log]) -> Scores:
    """The last value of every score: of the test, and of each stage's validation with its step."""

    def last(log: Log, split: str) -> dict[str, float]:
        return {name.removeprefix(split): values[-1][1] for name, values in log.items() if name.startswith(split)}

    trained = [stage for stage in TITLES if stage in logs]
    stages = {stage: {"steps": logs[stage]["val/loss"][-1][0] + 1} | last(logs[stage], "val/") for stage in trained}
    return {"reconstruction": last(logs["cmd"], "test/"), **stages}


def asked(prompt: str) -> Reading:
    """What a video of "a [size] colour shape moves direction" should be read as."""
    thing, direction = prompt.split(" moves ")
    *_, colour, shape = thing.split()
    return Reading(shape, colour, direction)


def fits(scores: Scores, settings: dict[str, Any]) -> list[tuple[str, float, int]]:
    """Stage, training steps and seconds of each fit."""
    seconds = [command["seconds"] for command in settings["commands"] if command["command"].split()[1] == "fit"]
    return [
        (title, scores[stage]["steps"], round(taken))
        for (stage, title), taken in zip(TITLES.items(), seconds, strict=True)
    ]


def sample(prompt: str, video: Tensor, reading: Reading, seed: int) -> Panel:
    """The video of a prompt, with what the reader sees in it."""
    words = f"{prompt} (seed {seed}); read as: {reading.colour} {reading.shape}, {reading.direction}"
    if astuple(asked(prompt)) in unseen():
        words += "; a combination held out of training"
    return Panel(gif_bytes(video, FPS, 6), words)


def strips(folder: Path, settings: dict[str, Any]) -> list[Panel]:
    """A panel per test clip: original, content frame, reconstruction, sampled motion, sample, in step."""
    config = yaml.safe_load((folder / "cmd.yaml").read_text())
    number, levels = settings["evaluated"], len(settings["levels"])
    data = WebVidDataModule(**config["data"]["init_args"] | {"batch_size": number})
    every = next(iter(data.test_dataloader()))
    shown = [i for i in range(number) if i % (number // levels) < SHOWN // levels]  # one level follows the other
    batch = {"video": every["video"][shown], "caption": [every["caption"][i] for i in shown]}
    rows = CMD(**config["model"]["init_args"]).preview(batch)
    gained = psnr(rows["reconstruction"], rows["original"]), psnr(mean_frame(rows["original"]), rows["original"])
    panels = []
    for i, (caption, value, floor) in enumerate(zip(batch["caption"], *gained, strict=True)):
        cells = [row[i].expand_as(rows["original"][i]) for row in rows.values()]
        gap = torch.ones_like(cells[0][..., :1])
        strip = torch.cat([part for cell in cells for part in (cell, gap)][:-1], dim=-1)
        text = f"{caption}; reconstruction {value:.2f} dB, mean frame {floor:.2f} dB"
        panels.append(Panel(gif_bytes(to_uint8(strip), FPS, 3), text, f"five moving pictures: {caption}"))
    return panels


def losses(scores: Scores) -> list[list[Any]]:
    """The validation losses of the diffusion stages by timestep, below the names of the columns."""
    names = sorted((name for name in scores["content"] if name.startswith("loss_at_")), key=lambda n: int(n[8:]))
    columns = ["stage", *(f"timestep {name[8:]}" for name in names), "mean"]
    rows = [[TITLES[stage], *(scores[stage][name] for name in (*names, "loss"))] for stage in ("content", "motion")]
    return [columns, *rows]


def curve(stage: str, log: Log) -> Plot:
    """The loss of a stage over its training steps."""
    series = []
    for split, label in (("train", "training"), ("val", "validation, averaged weights")):
        points = log.get(f"{split}/loss", [])
        series.append(Series(label, [step for step, _ in points], [loss for _, loss in points], dots=split == "val"))
    return Plot(f"{TITLES[stage]}: mean squared error", series, log=True)


def protocol(settings: dict[str, Any], weights: dict[str, str]) -> dict[str, str]:
    """What holds for every number on the page."""
    seed, levels = settings["seed"], settings["levels"]
    clips = " and ".join(f"{settings['evaluated'] // len(levels)} {level}" for level in levels)
    trained = f", {settings['evaluated']} to validate, others to train on" if settings["fit"] else ""
    return {
        "data": f"procedural world, seed {seed}: {clips} clips to test{trained}; 16 frames of 32x32 pixels, 8 a second",
        "seeds": f"{seed} for the clips and for every video" + (", and for training" if settings["fit"] else ""),
        "weights": f"{settings['model']}: sha256 of "
        + ", ".join(f"{name.partition('/')[0]} {digest[:12]}" for name, digest in weights.items()),
        **provenance(),
    }
