"""The report of a `train` run, from the files that its commands wrote."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from cmd_lightning.commands.stages import Log, read_log
from cmd_lightning.commands.strips import strips
from cmd_lightning.commands.train_configs import STAGES, stage_of
from cmd_lightning.components import CMD
from cmd_lightning.data.webvid import WebVidDataModule
from cmd_lightning.metrics.reconstruction import psnr
from cmd_lightning.provenance import provenance, weights_sha256
from cmd_lightning.report import Panel, Plot, Series, write_report
from cmd_lightning.video_encoding import gif_bytes
from cmd_lightning.video_io import read_video

if TYPE_CHECKING:
    from cmd_lightning.commands.train import Run

TITLES = {"autoencoder": "Autoencoder", "content": "Content model", "motion": "Motion model"}
SHOWN = 6
"""Number of held-out clips on the page."""


def write_page(run: Run) -> str:
    """Writes RUN/report.html and RUN/scores.json; returns a text with the path and the main scores."""
    tests = json.loads((run.folder / "cmd" / "test.json").read_text())
    scores = {test["metric"]: test["value"] for test in tests}
    logs = {name: read_log(run.folder / name) for name in STAGES}
    trained = {name: stage_of(run.folder, name).trained for name in STAGES}
    weights = weights_sha256(run.folder / "model")
    about = {
        "clips": f"{run.settings['clips']}, a tenth held out",
        "seed": str(run.settings["seed"]),
        "weights": ", ".join(f"{name.partition('/')[0]} {digest[:12]}" for name, digest in weights.items()),
        **provenance(),
    }
    record = {"scores": scores, "protocol": about | {"weights": weights}}
    (run.folder / "scores.json").write_text(json.dumps(record, indent=2) + "\n")
    page = write_report(
        run.folder / "report.html",
        "train.html",
        title=f"A video model of {Path(run.settings['clips']).resolve().name}",
        run=run,
        scores=scores,
        about=about,
        fits=[(TITLES[name], steps, round(seconds / 60, 1)) for name, (steps, seconds) in trained.items()],
        sampling=json.loads((run.folder / "model" / "model_index.json").read_text()),
        samples=samples(run),
        strips=shown(run),
        next=next_commands(run),
        curves=[curve(TITLES[name], log) for name, log in logs.items()],
    )
    rows = [
        ("reconstruction", f"{scores['psnr']:.2f} dB", f"SSIM {scores['ssim']:.3f}"),
        ("  the mean frame, still", f"{scores['psnr_of_mean_frame']:.2f} dB", ""),
        *((f"{name} steps", str(steps), "") for name, (steps, _) in trained.items()),
    ]
    table = "\n".join(f"  {name:26}{value:>10}  {remark}".rstrip() for name, value, remark in rows)
    return f"\nHeld-out clips:\n{table}\n\nLook at {page}"


def next_commands(run: Run) -> list[str]:
    """Commands to run next, with comments."""
    settings, folder = run.settings, run.folder.as_posix()
    options = [f"--captions {shlex.quote(settings['captions'])}"] * bool(settings["captions"])
    options += ["--classes"] * settings["classes"]
    options += [f"--{name} {settings[name]}" for name in ("size", "seed")]
    again = ["cmd-lightning train", shlex.quote(settings["clips"]), *options, f"--out {shlex.quote(folder)}"]
    asked = {"captions": '--prompt "..."', "classes": "--class 0", "nothing": "--num 8"}[run.facts["condition"]]
    return [
        " ".join([*again, "--minutes 240    # train longer: total minutes"]),
        f"cmd-lightning generate {shlex.quote(folder + '/model')} {asked} --out {shlex.quote(folder + '/videos')}",
        f"tensorboard --logdir {shlex.quote(folder)}",
    ]


def samples(run: Run) -> list[Panel]:
    """The samples with their conditions."""
    panels = []
    for path in sorted((run.folder / "samples").glob("*.mp4")):
        record = json.loads(path.with_suffix(".json").read_text())
        condition = record["condition"]
        if isinstance(condition, int):
            condition = run.facts["classes"][condition]
        text = f"{condition or 'a sample'} (seed {record['seed']})"
        panels.append(Panel(gif_bytes(read_video(path), run.facts["fps"], scale_of(run)), text))
    return panels


def shown(run: Run) -> list[Panel]:
    """Panels of some held-out clips: original, content frame, reconstruction, sampled motion, sample."""
    config = yaml.safe_load((run.folder / "cmd.yaml").read_text())
    data = WebVidDataModule(**config["data"]["init_args"] | {"batch_size": SHOWN})
    batch = next(iter(data.test_dataloader()))
    rows = CMD(**config["model"]["init_args"]).preview(batch)
    quality = psnr(rows["reconstruction"], rows["original"])
    names = [caption or key for caption, key in zip(batch["caption"], batch["key"], strict=True)]
    texts = [f"{name}; reconstruction {value:.2f} dB" for name, value in zip(names, quality, strict=True)]
    return strips(rows, names, texts, run.facts["fps"], scale_of(run))


def scale_of(run: Run) -> int:
    """The factor by which pixels are enlarged."""
    return 2 if run.settings["size"] < 128 else 1


def curve(title: str, log: Log) -> Plot:
    """The loss of a stage over its training steps."""
    labels = {"train": "training", "val": "held-out clips, averaged weights"}
    series = []
    for split, label in labels.items():
        points = log.get(f"{split}/loss", [])
        series.append(Series(label, [step for step, _ in points], [loss for _, loss in points], dots=split == "val"))
    return Plot(f"{title}: loss", series, log=True)
