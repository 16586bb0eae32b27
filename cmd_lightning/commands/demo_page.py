"""The page about a demo, made from the files that its commands left."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cmd_lightning.report import Panel, Plot, Section

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
    from cmd_lightning.report import write_report

    logs = {name: read_log(folder / "logs" / name / "metrics.csv") for name in (*TITLES, "cmd")}
    scores = read_scores(logs)
    about = protocol(folder, settings)
    (folder / "scores.json").write_text(json.dumps({"scores": scores, "protocol": about}, indent=2) + "\n")
    page = write_report(
        folder / "report.html",
        "Content-motion latent diffusion in ten minutes",
        [
            introduction(scores, settings),
            reconstruction(folder, scores, settings),
            samples(folder, settings),
            losses(logs, scores, settings),
            conditions(about, settings),
        ],
    )
    test = scores["reconstruction"]
    rows = [
        ("reconstruction", f"{test['psnr']:.2f} dB", f"SSIM {test['ssim']:.3f}"),
        ("  the mean frame instead", f"{test['psnr_of_mean_frame']:.2f} dB", ""),
        ("  the best single frame", f"{test['psnr_of_best_frame']:.2f} dB", ""),
        *((f"{stage} loss", f"{scores[stage]['loss']:.4f}", "validation") for stage in ("content", "motion")),
    ]
    table = "\n".join(f"  {name:26}{value:>10}  {remark}".rstrip() for name, value, remark in rows)
    taken = sum(command["seconds"] for command in settings["commands"])
    return f"\nThe demo took {taken / 60:.1f} minutes. {settings['evaluated']} clips each:\n{table}\n\nLook at {page}"


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
    """The last value of every score: of the test, and of each stage's validation with the step that it follows."""

    def last(log: Log, split: str) -> dict[str, float]:
        return {name.removeprefix(split): values[-1][1] for name, values in log.items() if name.startswith(split)}

    stages = {stage: {"steps": logs[stage]["val/loss"][-1][0] + 1} | last(logs[stage], "val/") for stage in TITLES}
    return {"reconstruction": last(logs["cmd"], "test/"), **stages}


def introduction(scores: dict[str, dict[str, float]], settings: dict[str, Any]) -> Section:
    """What this page is, and how brief the training was."""
    from cmd_lightning.report import Section, Table, Text

    fits = [command["seconds"] for command in settings["commands"] if command["command"].split()[1] == "fit"]
    rows = [
        (TITLES[stage], float(scores[stage]["steps"]), float(round(seconds)))
        for stage, seconds in zip(TITLES, fits, strict=True)
    ]
    return Section(
        "A brief fit, rough by design",
        [
            Text(
                "An autoencoder turns each clip into one picture, the content frame, and a small motion latent; an "
                "image diffusion model learns the content frames, and a light diffusion transformer the motion that "
                "goes with one. All three were just trained from nothing, on captioned moving shapes of 32x32 "
                "pixels, for as long as the table says. That is enough to see every part work, not to see what the "
                "method can do: expect blurred and wrong shapes below, and weaker samples than reconstructions."
            ),
            Table(("stage", "training steps", "seconds, start-up included"), rows),
        ],
    )


def reconstruction(folder: Path, scores: dict[str, dict[str, float]], settings: dict[str, Any]) -> Section:
    """What the autoencoder keeps: scores beside those of still pictures, and clips."""
    from cmd_lightning.report import Gallery, Section, Table, Text

    test = scores["reconstruction"]
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
                f"Protocol: all {settings['evaluated']} clips of the test split, none of them trained on, 16 frames of "
                "32x32 pixels; values in [-1, 1], range 2; PSNR over all frames and SSIM averaged over the frames of "
                f"a clip, then the mean over clips; autoencoder after {scores['autoencoder']['steps']} steps, "
                f"averaged weights (EMA, decay {settings['ema_decay']}). The mean frame is the best that a still "
                "picture can do."
            ),
            Text(
                "Left to right: original, content frame, reconstruction, the true content frame with sampled motion, "
                "and a sample from the caption alone. Sampled motion is another clip than the original as soon as "
                "content frame and caption leave the motion open. Seeds count from 0."
            ),
            Gallery(strips(folder), width=495),
        ],
    )


def strips(folder: Path) -> list[Panel]:
    """A panel a test clip: original, content frame, reconstruction, sampled motion, sample, in step."""
    import torch
    import yaml

    from cmd_lightning.components import CMD
    from cmd_lightning.data.webvid import WebVidDataModule
    from cmd_lightning.latent_space import to_uint8
    from cmd_lightning.metrics.reconstruction import mean_frame, psnr
    from cmd_lightning.report import Panel
    from cmd_lightning.video_io import gif_bytes

    config = yaml.safe_load((folder / "cmd.yaml").read_text())
    data = WebVidDataModule(**config["data"]["init_args"] | {"batch_size": SHOWN})
    batch = next(iter(data.test_dataloader()))
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


def samples(folder: Path, settings: dict[str, Any]) -> Section:
    """Videos from captions."""
    from cmd_lightning.commands.generate import slug
    from cmd_lightning.report import Gallery, Panel, Section, Text
    from cmd_lightning.video_io import gif_bytes, read_video

    seed = settings["seed"]
    panels = []
    for prompt in settings["prompts"]:
        video = read_video(folder / "samples" / f"{slug(prompt)}-{seed}.mp4")
        panels.append(Panel(gif_bytes(video, FPS, 6), f"{prompt} (seed {seed})"))
    return Section(
        "Samples",
        [
            Text(
                "From the caption alone: a content frame, then its motion, then the video; the first try of each "
                f"caption, none left out. Sampling: {settings['sampling']}."
            ),
            Gallery(panels, width=200),
        ],
    )


def losses(logs: dict[str, Log], scores: dict[str, dict[str, float]], settings: dict[str, Any]) -> Section:
    """The validation losses of the diffusion stages by timestep, and the curves of all stages."""
    from cmd_lightning.report import Section, Table, Text

    stages = ("content", "motion")
    names = sorted((name for name in scores["content"] if name.startswith("loss_at_")), key=lambda n: int(n[8:]))
    columns = ["stage", *(f"timestep {name[8:]}" for name in names), "mean"]
    rows = [(TITLES[stage], *(scores[stage][name] for name in names), scores[stage]["loss"]) for stage in stages]
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
    from cmd_lightning.report import Plot, Series

    train, val = (list(zip(*log.get(name, []), strict=True)) or [(), ()] for name in ("train/loss", "val/loss"))
    series = [Series("training", *train), Series("validation, averaged weights", *val, dots=True)]
    return Plot(f"{TITLES[stage]}: mean squared error", series, log=True)


def conditions(about: dict[str, str], settings: dict[str, Any]) -> Section:
    """With what this was made, and how to make it again."""
    from cmd_lightning.report import Section, Table, Text

    commands = "\n".join(f"{item['command']}    # {item['seconds']:.0f} s" for item in settings["commands"])
    return Section("How it was made", [Table(("", ""), list(about.items())), Text(commands, code=True)])


def protocol(folder: Path, settings: dict[str, Any]) -> dict[str, str]:
    """What holds for every number on the page."""
    import platform
    from datetime import UTC, datetime
    from importlib.metadata import version

    import torch

    from cmd_lightning import __version__

    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    libraries = ("torch", "lightning", "diffusers", "torchmetrics")
    return {
        "data": f"procedural shapes, seed {settings['seed']}: {settings['clips']} clips to train on, "
        f"{settings['evaluated']} to validate, {settings['evaluated']} to test; 16 frames of 32x32 pixels, 8 a second",
        "seeds": f"{settings['seed']} for data, training and every video",
        "versions": ", ".join([f"cmd-lightning {__version__}", *(f"{name} {version(name)}" for name in libraries)]),
        "commit": commit() or "not known: not run from a checkout",
        "hardware": f"{processor()}, {torch.get_num_threads()} threads{gpu}",
        "system": f"{platform.system()}, Python {platform.python_version()}",
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }


def commit() -> str | None:
    """The checked-out commit, if this package lies in its own repository."""
    import subprocess

    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    try:
        git = ["git", "-C", str(root)]
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changed = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    return f"{head} with changes" if changed.strip() else head


def processor() -> str:
    """The processor's name."""
    import platform

    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
