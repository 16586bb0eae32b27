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
from cmd_lightning.report import Gallery, Panel, Plot, Section, Series, Table, Text, write_report
from cmd_lightning.shapes.reader import Reading, ShapesReader
from cmd_lightning.shapes.scenes import unseen
from cmd_lightning.video_io import gif_bytes, read_video
from cmd_lightning.zoo import model_folder

Log = dict[str, list[tuple[int, float]]]
"""The logged values with their steps, by name."""

FPS = 8
TITLES = {"autoencoder": "Autoencoder", "content": "Content model", "motion": "Motion model"}
"""The stages, in order, as the page calls them."""

SHOWN = 6
"""Test clips on the page."""


def write_page(folder: Path, settings: dict[str, Any]) -> str:
    """Writes FOLDER/report.html and FOLDER/scores.json.

    Args:
        folder: The demo's.
        settings: What was asked for, and the commands with their seconds.

    Returns:
        The path and the headline scores, for people.
    """
    stages = tuple(TITLES) if settings["fit"] else ()
    logs = {name: read_log(folder / "logs" / name / "metrics.csv") for name in (*stages, "cmd")}
    found = readings(folder, settings)
    scores = read_scores(logs) | {"samples": {"read_as_asked": sum(found[p] == asked(p) for p in found)}}
    about = protocol(settings, weights := weights_sha256(model_folder(settings["model"])))
    record = {"scores": scores, "protocol": about | {"weights": weights}}
    (folder / "scores.json").write_text(json.dumps(record, indent=2) + "\n")
    page = write_report(
        folder / "report.html",
        "Content-motion latent diffusion, " + ("trained in ten minutes" if settings["fit"] else "as it ships"),
        [
            introduction(scores, settings),
            samples(folder, found, settings),
            reconstruction(folder, scores, settings),
            *([losses(logs, scores, settings)] if settings["fit"] else []),
            conditions(about, settings),
        ],
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


def read_scores(logs: dict[str, Log]) -> dict[str, dict[str, float]]:
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


def readings(folder: Path, settings: dict[str, Any]) -> dict[str, Reading]:
    """What the reader of the procedural world sees in the video of each prompt."""
    videos = [sample(folder, prompt, settings) for prompt in settings["prompts"]]
    return dict(zip(settings["prompts"], ShapesReader.from_pretrained().read(torch.stack(videos)), strict=True))


def sample(folder: Path, prompt: str, settings: dict[str, Any]) -> Tensor:
    """The video of a prompt, uint8 `(C, T, H, W)`."""
    return read_video(folder / "samples" / f"{slug(prompt)}-{settings['seed']}.mp4")


def introduction(scores: dict[str, dict[str, float]], settings: dict[str, Any]) -> Section:
    """What this page is, and whether its models ship or were trained briefly."""
    method = (
        "An autoencoder turns each clip into one picture, the content frame, and a small motion latent; an image "
        "diffusion model learns the content frames, and a light diffusion transformer the motion that goes with one. "
    )
    if not settings["fit"]:
        shipped = (
            f"All three are {settings['model']}, which ships with this program: trained before, on captioned moving "
            f"shapes of 32x32 pixels as configs/{settings['model']} says. Nothing was trained for this page; "
            "`cmd-lightning demo --fit` does that."
        )
        return Section("The shipped model", [Text(method + shipped)])
    fits = [command["seconds"] for command in settings["commands"] if command["command"].split()[1] == "fit"]
    rows = [
        (TITLES[stage], float(scores[stage]["steps"]), float(round(seconds)))
        for stage, seconds in zip(TITLES, fits, strict=True)
    ]
    brief = (
        "All three were just trained from scratch, on captioned moving shapes of 32x32 pixels, for as long as the "
        "table says. That is enough to see every part work, not to see what the method can do: expect blurred and "
        "wrong shapes below, and weaker samples than reconstructions. `cmd-lightning demo` shows longer training."
    )
    return Section(
        "A brief fit, rough by design",
        [Text(method + brief), Table(("stage", "training steps", "seconds, start-up included"), rows)],
    )


def reconstruction(folder: Path, scores: dict[str, dict[str, float]], settings: dict[str, Any]) -> Section:
    """What the autoencoder keeps: scores beside those of still pictures, and clips."""
    test, halves = scores["reconstruction"], " and half ".join(settings["levels"])
    weights = f"the weights of {settings['model']}"
    if settings["fit"]:
        steps = scores["autoencoder"]["steps"]
        weights = f"autoencoder after {steps} steps, averaged weights (EMA, decay {settings['ema_decay']})"
    rows = [
        ("content frame and motion latent", test["psnr"], test["ssim"]),
        ("the clip's mean frame, still", test["psnr_of_mean_frame"], None),
        ("the clip's best single frame, still", test["psnr_of_best_frame"], None),
    ]
    return Section(
        "Reconstruction",
        [
            Table(("what stands for the clip", "PSNR in dB", "SSIM"), rows),
            Text(
                f"Protocol: all {settings['evaluated']} clips of the test split, half {halves}, none of them "
                "trained on, 16 frames of 32x32 pixels; values in [-1, 1], range 2; PSNR over all frames and SSIM "
                f"averaged over the frames of a clip, then the mean over clips; {weights}. The mean frame is the best "
                "that a still picture can do."
            ),
            Text(
                "Left to right: original, content frame, reconstruction, the true content frame with sampled motion, "
                "and a sample from the caption alone. Sampled motion is another clip than the original as soon as "
                "content frame and caption leave the motion open. Seeds count from 0."
            ),
            Gallery(strips(folder, settings), width=495),
        ],
    )


def strips(folder: Path, settings: dict[str, Any]) -> list[Panel]:
    """A panel a test clip: original, content frame, reconstruction, sampled motion, sample, in step."""
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


def samples(folder: Path, found: dict[str, Reading], settings: dict[str, Any]) -> Section:
    """Videos from captions, with what the reader sees in them."""
    panels = []
    for prompt, reading in found.items():
        words = f"{prompt} (seed {settings['seed']}); read as: {reading.colour} {reading.shape}, {reading.direction}"
        if astuple(asked(prompt)) in unseen():
            words += "; a combination held out of training"
        panels.append(Panel(gif_bytes(sample(folder, prompt, settings), FPS, 6), words))
    index = json.loads((model_folder(settings["model"]) / "model_index.json").read_text())
    sampling = ", ".join(
        f"{index['steps'][stage]} steps and guidance {index['guidance'][stage]:g} of the {stage} model"
        for stage in ("content", "motion")
    )
    right = sum(found[prompt] == asked(prompt) for prompt in found)
    return Section(
        "Samples",
        [
            Text(
                "From the caption alone: a content frame, then its motion, then the video; the first try of each "
                f"caption, none left out; {sampling}. Under "
                "each stands what a reader sees, a small network trained to name shape, colour and direction in clips "
                f"of this world, or none: {right} of {len(found)} are read as asked; a guess is right in 1 of "
                f"{round(1 / ShapesReader.chance)}."
            ),
            Gallery(panels, width=200),
        ],
    )


def losses(logs: dict[str, Log], scores: dict[str, dict[str, float]], settings: dict[str, Any]) -> Section:
    """The validation losses of the diffusion stages by timestep, and the curves of all stages."""
    stages = ("content", "motion")
    names = sorted((name for name in scores["content"] if name.startswith("loss_at_")), key=lambda n: int(n[8:]))
    columns = ["stage", *(f"timestep {name[8:]}" for name in names), "mean"]
    rows: list[list[str | float]] = [
        [TITLES[stage], *(scores[stage][name] for name in names), scores[stage]["loss"]] for stage in stages
    ]
    return Section(
        "Losses",
        [
            Table(columns, rows),
            Text(
                f"Protocol: mean squared error of the predicted clean latent at these timesteps of 1000; all "
                f"{settings['evaluated']} clips of the validation split, noise fixed by the batch's number; averaged "
                f"weights (EMA, decay {settings['ema_decay']}) after {scores['content']['steps']} steps (content) and "
                f"{scores['motion']['steps']} steps (motion)."
            ),
            *(curve(stage, logs[stage]) for stage in TITLES),
        ],
    )


def curve(stage: str, log: Log) -> Plot:
    """The loss of a stage over its training steps."""
    series = []
    for split, label in (("train", "training"), ("val", "validation, averaged weights")):
        points = log.get(f"{split}/loss", [])
        series.append(Series(label, [step for step, _ in points], [loss for _, loss in points], dots=split == "val"))
    return Plot(f"{TITLES[stage]}: mean squared error", series, log=True)


def conditions(about: dict[str, str], settings: dict[str, Any]) -> Section:
    """With what this was made, and how to make it again."""
    commands = "\n".join(f"{item['command']}    # {item['seconds']:.0f} s" for item in settings["commands"])
    return Section("How it was made", [Table(("", ""), list(about.items())), Text(commands, code=True)])


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
