"""Prove that each metric reacts to what it must react to.

    python -m benchmarks.shapes.yardstick.prove    # three minutes on one CPU core

Writes the results (`--json`), and next to them two pages (`.md`) and a plot (`.png`). A level of clips that the results
hold already is not measured again. To replace the committed results, delete benchmarks/results/yardstick.json and give
it as `--json`.
"""

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any, get_args

import torch
from safetensors import safe_open
from torch import Tensor

from benchmarks.cells import command_line, measure_cells
from benchmarks.pages import fill
from benchmarks.shapes.yardstick.augmentations import FRAMES, compressed
from benchmarks.shapes.yardstick.corruptions import STRENGTHS, UNITS, corrupt, draw_clips
from benchmarks.shapes.yardstick.gauges import RESAMPLES, Networks, gauges_of, networks, respond, see, spearman
from benchmarks.shapes.yardstick.plot import draw_plot
from cmd_lightning.data.plan import stable_hash
from cmd_lightning.errors import program
from cmd_lightning.provenance import provenance, weights_sha256
from cmd_lightning.shapes.features import ShapesFeatures
from cmd_lightning.shapes.neighbours import COPY_DISTANCE, COPY_RATIO, find_copies, thumbnails
from cmd_lightning.shapes.reader import ShapesReader
from cmd_lightning.shapes.scenes import Level
from cmd_lightning.shapes.sheets import SheetSimilarity
from cmd_lightning.zoo import WEIGHTS

ERRORS = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)  # amounts of "trajectory", to rank metrics by the true error
BANK, PLANTED = 300, 64  # known clips, and how many of them are planted, half through H.264 and half a pixel aside


def planted_copies(level: Level, size: int) -> dict[str, int]:
    """Hide copies of known clips among new ones, and count how many of each are called copies."""
    bank = draw_clips(stable_hash("yardstick", "known"), BANK, size, level).video
    new = draw_clips(stable_hash("yardstick", "new"), PLANTED, size, level).video
    half = PLANTED // 2
    coded = torch.stack([compressed(clip, 23) for clip in bank[:half]])
    aside = bank[half:PLANTED].roll(1, dims=-1)
    known = thumbnails(bank)

    def right(query: Tensor, first: int) -> int:
        copies = find_copies(thumbnails(query), known)
        return int((copies.copied & (copies.index == torch.arange(first, first + len(query)))).sum())

    return {
        "known clips": BANK,
        "planted through H.264 (crf 23)": half,
        "of these found": right(coded, 0),
        "planted one pixel aside": half,
        "of these found one pixel aside": right(aside, half),
        "independent clips": PLANTED,
        "of these called copies": int(find_copies(thumbnails(new), known).copied.sum()),
    }


def measure(level: Level, num: int, size: int, loaded: Networks) -> dict[str, Any]:
    """The row of a level: responses of each metric to each corruption, their agreement with true errors, and copies."""
    gauges = gauges_of(level)
    sights = {gauge.sight for gauge in gauges.values()}
    clips = draw_clips(stable_hash("yardstick", "corrupted"), num, size, level)  # of motion `middle`, and held out
    real = see(draw_clips(stable_hash("yardstick", "real"), num, size, level), loaded, sights)
    # Other draws for each set, so that no order is given beforehand.
    sets = [corrupt(clips, "trajectory", amount, seed=number) for number, amount in enumerate(ERRORS)]
    errors, seen = torch.tensor([one.error for one in sets]), [see(one, loaded, sights) for one in sets]
    trajectory: dict[str, Any] = {}
    for name, gauge in gauges.items():
        values = torch.stack([gauge.value(real[gauge.sight], sight[gauge.sight]) for sight in seen])
        trajectory[name] = {"values": values.tolist(), "rho": spearman(values if gauge.rises else -values, errors)}
    clean = see(clips, loaded, sights)
    responses: dict[str, dict[str, Any]] = {name: {} for name in gauges}
    for corruption, amounts in STRENGTHS.items():
        seen = [clean, *(see(corrupt(clips, corruption, amount), loaded, sights) for amount in amounts[1:])]
        for name, gauge in gauges.items():
            answer = respond(gauge, real[gauge.sight], [sight[gauge.sight] for sight in seen])
            about = {"verdict": answer.verdict, "not asked because": gauge.why_unasked(corruption, level)}
            responses[name][corruption] = vars(answer) | about
        print(f"{level}, {corruption}: done", flush=True)
    trajectory = {"errors": errors.tolist(), "metrics": trajectory}
    return {"level": level, "responses": responses, "trajectory": trajectory, "copies": planted_copies(level, size)}


def record_of(num: int, size: int) -> dict[str, Any]:
    """What is measured, and how; of the shipped weights the sha256 and what they tell of their training."""
    protocol = {
        "clips": f"{num} real held-out clips, and {num} others that are corrupted; motion middle, {FRAMES} frames "
        f"of {size}x{size} pixels, rendered, not compressed; all combinations",
        "spread": f"standard deviation over {RESAMPLES} resamplings, with replacement, of the corrupted clips",
        "tolerance": "twice the standard deviation of a step over the same resamplings at both strengths",
        "chance": f"{ShapesReader.chance:.4f} for the joint accuracy of the reader",
        "copies": f"thumbnails nearer than {COPY_DISTANCE} grey levels, and than {COPY_RATIO} of the next",
    }
    weights = {}
    for name in (ShapesReader.WEIGHTS, ShapesFeatures.WEIGHTS, SheetSimilarity.WEIGHTS):
        with safe_open(WEIGHTS / name, "pt") as file:
            weights[name] = {"sha256": weights_sha256(WEIGHTS / name)[name], **(file.metadata() or {})}
    strengths = {name: {"amounts": amounts, "unit": UNITS[name]} for name, amounts in STRENGTHS.items()}
    settings = {"num": num, "size": size, "weights": weights}
    return {"settings": settings, "protocol": protocol, "strengths": strengths, **provenance()}


def markdown(result: dict[str, Any], template: str = "proof") -> str:
    """The page of a result; or with the template "levels" the page of its values."""
    answers = [answer for row in result["rows"] for found in row["responses"].values() for answer in found.values()]
    counted = Counter(answer["verdict"] for answer in answers if not answer["not asked because"])
    records = {name: json.loads(about["record"]) for name, about in result["settings"]["weights"].items()}
    scores = {name: record["scores"] for name, record in records.items()}
    protocol = {name: about for name, about in (result["protocol"] | result).items() if isinstance(about, str)}
    page = result | {"protocol": protocol, "counted": counted, "scores": scores}
    return fill(f"shapes/yardstick/{template}.md.jinja", **page)


def main() -> int:
    """The command line."""
    parser = command_line(__doc__)
    parser.add_argument("--num", type=int, default=256, help="clips in each set (default: %(default)s)")
    parser.add_argument("--size", type=int, default=32, help="side of the frames in pixels")
    path = Path("outputs/yardstick/yardstick.json")
    parser.add_argument("--json", type=Path, default=path, help="results (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="of the CPU (default: %(default)s)")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    path, loaded, size = options.json, networks(), (options.num, options.size)
    cells = [{"level": level} for level in get_args(Level)]
    result = measure_cells(
        cells, lambda cell: [measure(cell["level"], *size, loaded)], record_of(*size), path, math.inf
    )
    path.with_suffix(".md").write_text(markdown(result))
    path.with_name(f"{path.stem}_levels.md").write_text(markdown(result, "levels"))
    draw_plot(result).save(path.with_suffix(".png"), optimize=True)
    return 0


if __name__ == "__main__":
    program(main)
