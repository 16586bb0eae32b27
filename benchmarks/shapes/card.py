"""Writes the card of an included model: description, training, scores, and failures.

    python -m benchmarks.shapes.card shapes32

From configs/NAME, the training logs in outputs/NAME, zoo/weights/NAME and benchmarks/results/NAME.json it makes
zoo/cards/NAME.yaml, the record, and next to it NAME.md with its plots, for people. Words that no program can find, on
what the samples look like, are in the card under `seen` and `uses` and are kept. `benchmarks.shapes.uses` makes the
image of what two latents make easy.
"""

import csv
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import yaml

from benchmarks.cells import by_name, command_line, read
from benchmarks.pages import fill
from benchmarks.shapes.quality import clips, generate
from cmd_lightning.errors import InputError, program
from cmd_lightning.latent_space import from_uint8, to_uint8
from cmd_lightning.pipeline import CMDPipeline
from cmd_lightning.provenance import weights_sha256
from cmd_lightning.shapes.scenes import ALIGNMENTS, SPEEDS
from cmd_lightning.video_encoding import gif_bytes

STAGES = ("autoencoder", "content", "motion")
CURVES = {"psnr": "autoencoder", "psnr_of_mean_frame": "mean frame", "psnr_of_best_frame": "best frame"}
CARDS, WEIGHTS, RESULTS = Path("zoo/cards"), Path("zoo/weights"), Path("benchmarks/results")


def training_record(name: str, stage: str, old: dict[str, Any]) -> dict[str, Any]:
    """Config, length and validation curve of a stage, of all calls that trained it; the `old` ones without its logs."""
    path = Path("configs", name, f"{stage}.yaml")
    config = yaml.safe_load(path.read_text())
    curve: dict[int, dict[str, float]] = {}
    seconds: dict[int, float] = {}
    for log in sorted(Path("outputs", name, stage, "log").rglob("metrics.csv"), key=lambda file: file.stat().st_mtime):
        for row in csv.DictReader(log.read_text().splitlines()):
            step = int(row["step"]) + 1
            if row.get("throughput/step_seconds"):
                seconds[step] = float(row["throughput/step_seconds"])
            if row.get("val/loss"):
                scores = {key: row[f"val/{key}"] for key in ("loss", "psnr") if row.get(f"val/{key}")}
                curve[step] = {key: round(float(value), 5) for key, value in scores.items()}
    if not seconds:
        return old
    steps = sorted(seconds)
    lengths = [later - earlier for earlier, later in pairwise([0, *steps])]
    return {
        "config": path.as_posix(),
        "steps": steps[-1],
        "batch_size": config["data"]["init_args"]["batch_size"],
        "minutes": round(sum(n * seconds[step] for n, step in zip(lengths, steps, strict=True)) / 60, 1),
        "validation": [{"step": step, **curve[step]} for step in sorted(curve)],
    }


def progress(name: str) -> list[dict[str, float]]:
    """What plain captions gave on the way: results in outputs/NAME/progress, named after the content model's steps."""
    points = []
    for path in Path("outputs", name, "progress").glob("*.json"):
        cell = by_name(read(path))["plain captions"]["all"]
        points.append({"step": int(path.stem), **{key: round(value, 4) for key, value in cell.items()}})
    return sorted(points, key=lambda point: point["step"])


def make_card(name: str, pipeline: CMDPipeline, old: dict[str, Any]) -> dict[str, Any]:
    """The record of a model; `old` is the card before, of which the words are kept."""
    parts = {key: part for key, part in pipeline.components.items() if hasattr(part, "parameters")}
    return {
        "name": name,
        "kind": "model",
        "what": old.get("what", "CMD on the procedural world: autoencoder, content model and motion model in pixels"),
        "video": {"shape": list(pipeline.config.video_shape), "fps": pipeline.config.fps},
        "parameters": {key: sum(p.numel() for p in part.parameters()) for key, part in parts.items()},
        "trained_on": old.get("trained_on", "unknown hardware"),
        "training": {stage: training_record(name, stage, old.get("training", {}).get(stage, {})) for stage in STAGES},
        "progress": progress(name) or old.get("progress", []),
        "weights": weights_sha256(WEIGHTS / name),
        "results": f"benchmarks/results/{name}.json",
        "seen": old.get("seen", []),
        "uses": old.get("uses", []),
    }


def plot_training(card: dict[str, Any], path: Path) -> None:
    """Validation loss of each stage over its steps, PSNR of the autoencoder, and what captions gave on the way."""
    import matplotlib.pyplot as plt

    shown = [("autoencoder", "psnr", "PSNR in dB"), *((stage, "loss", "loss") for stage in STAGES)]
    plots = len(shown) + bool(card["progress"])
    figure, axes = plt.subplots(1, plots, figsize=(3.2 * plots, 2.8), layout="constrained")
    for axis, (stage, key, label) in zip(axes, shown, strict=False):
        points = card["training"][stage]["validation"]
        known = [point for point in points if key in point]
        axis.plot([point["step"] for point in known], [point[key] for point in known], marker=".")
        axis.set(title=f"{stage}: validation {label}", xlabel="step", yscale="log" if key == "loss" else "linear")
    if points := card["progress"]:
        steps = [point["step"] for point in points]
        for key, label in (("joint", "all three"), *((word, word) for word in ("shape", "colour", "direction"))):
            axes[-1].plot(steps, [point[key] for point in points], marker=".", label=label)
        axes[-1].set(title="plain captions classified as asked", xlabel="step of content", ylim=(0, 1))
        axes[-1].legend(fontsize=8, loc="center right")
    for axis in axes:
        axis.grid(alpha=0.3, which="both")
    figure.savefig(path)
    plt.close(figure)


def plot_failures(cells: dict[str, Any], path: Path) -> None:
    """Error against speed and alignment, of the autoencoder and of generation."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, 2, figsize=(10, 6), layout="constrained")
    for column, (title, values) in enumerate((("speed", list(SPEEDS)), ("alignment of shapes", list(ALIGNMENTS)))):
        rows = [cells[f"reconstruction/{value}"] for value in values]
        for key, name in CURVES.items():
            # A still image of a still clip is exact.
            exact = [value == "still" and key != "psnr" for value in values]
            heights = [float("nan") if one else row[key] for one, row in zip(exact, rows, strict=True)]
            axes[0, column].plot(values, heights, marker="o", label=name)
        axes[0, column].set(title=f"reconstruction against {title}", ylabel="PSNR in dB")
        for key in ("real", "reconstruction", "generated motion", "generated"):
            heights = [cells[f"generation/{value}"][key]["shapes_kernel_distance"] for value in values]
            axes[1, column].plot(values, heights, marker="o", label="other real clips" if key == "real" else key)
        axes[1, column].set(title=f"distance to real clips against {title}", ylabel="shapes kernel distance")
        axes[1, column].set_yscale("symlog", linthresh=0.01)
    for axis in axes.flat:
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    figure.savefig(path)
    plt.close(figure)


def draw_animation(pipeline: CMDPipeline, path: Path, columns: int = 8) -> None:
    """An animation: originals, content frames, reconstructions, generated motion, samples; plain, then mixed."""
    (plain, first), (mixed, then) = (clips(pipeline, columns, level=level) for level in ("plain", "mixed"))
    video, captions = torch.cat([first, then]), [scene.caption for scene in (*plain, *mixed)]
    pipeline.set_progress_bar_config(disable=True)
    with torch.no_grad():
        content, motion = pipeline.autoencoder.encode(from_uint8(video))
        moved = pipeline.generate_motion(content, captions, range(len(captions)))
        sampled = pipeline(captions, seeds=range(len(captions)), output_type="latent")
        made = (content, motion), (content, moved), (sampled.content, sampled.frames)
        rows = [to_uint8(pipeline.decode(*latents)) for latents in made]
    still = to_uint8(content)[:, :, None].expand_as(video)
    bands = [torch.cat([*row], dim=-1) for row in (video, still, *rows)]
    path.write_bytes(gif_bytes(torch.cat(bands, dim=-2), pipeline.config.fps, 2 if video.shape[-1] < 64 else 1))


def draw_mixed_samples(pipeline: CMDPipeline, path: Path, side: int = 8) -> None:
    """A moving image of `side` × `side` videos of mixed captions, the first ones of the split "test"."""
    scenes, _ = clips(pipeline, side**2, level="mixed")
    video = generate(pipeline, [scene.caption for scene in scenes])
    rows = [torch.cat([*row], dim=-1) for row in video.split(side)]
    path.write_bytes(gif_bytes(torch.cat(rows, dim=-2), pipeline.config.fps, 2 if video.shape[-1] < 64 else 1))


def page(card: dict[str, Any], result: dict[str, Any]) -> str:
    """The card for people, from its record and from what `benchmarks.shapes.quality` measured."""
    cells = by_name(result)
    rows = {value: cells[f"reconstruction/{value}"] for value in SPEEDS}
    rows |= {f"middle, three shapes, alignment {value}": cells[f"reconstruction/{value}"] for value in ALIGNMENTS}
    settings = result["settings"]
    measured = RESULTS / f"{card['name']}_uses.json"
    uses = read(measured) if measured.is_file() else None
    values = {"card": card, "result": result, "cells": cells, "settings": settings}
    return fill("shapes/card.md.jinja", **values, reconstructions=rows, uses=uses)


def main() -> int:
    """The command line."""
    parser = command_line(__doc__)
    parser.add_argument("name", help="folder of zoo/weights, e.g. shapes32")
    name = parser.parse_args().name
    path, measured = CARDS / f"{name}.yaml", RESULTS / f"{name}.json"
    if not measured.is_file():
        raise InputError(f"{name}: no {measured}; run benchmarks.shapes.quality first")
    result = read(measured)
    pipeline = CMDPipeline.from_pretrained(WEIGHTS / name)
    card = make_card(name, pipeline, yaml.safe_load(path.read_text()) if path.is_file() else {})
    if result["settings"]["weights"]["model"] != card["weights"]:
        raise InputError(f"{measured}: results of other weights; run benchmarks.shapes.quality again")
    path.parent.mkdir(exist_ok=True)
    path.write_text(yaml.safe_dump(card, sort_keys=False, width=120))
    draw_animation(pipeline, CARDS / f"{name}.gif")
    draw_mixed_samples(pipeline, CARDS / f"{name}-mixed.gif")
    plot_training(card, CARDS / f"{name}-training.svg")
    plot_failures(by_name(result), CARDS / f"{name}-failures.svg")
    (CARDS / f"{name}.md").write_text(page(card, result))
    print(CARDS / f"{name}.md")
    return 0


if __name__ == "__main__":
    program(main)
