"""The card of a shipped model as Markdown, for people: see `benchmarks.shapes.card`."""

from typing import Any

from benchmarks.cells import by_name
from cmd_lightning.markdown import table
from cmd_lightning.shapes.scenes import ALIGNMENTS, SPEEDS

Record = dict[str, Any]


def page(card: Record, result: Record) -> str:
    """The card: what the model is, how it was trained, what it scores, where it fails.

    Args:
        card: The record of the model, from `benchmarks.shapes.card`.
        result: What `benchmarks.shapes.quality` measured.
    """
    name, cells, settings = card["name"], by_name(result), result["settings"]
    last = f"Protocol: {result['versions']}; {result['hardware']}; {result['date']}; commit {result['commit']}."
    parts = [f"# {name}", f"{card['what']}. Made by `python -m benchmarks.shapes.card {name}` from `{name}.yaml`."]
    parts += [*model(card), "## Training", *training(card), "## Reconstruction", *reconstruction(cells, settings)]
    parts += ["## Generation", *generation(cells, settings), "## Where it fails", *failures(card, settings), last]
    return "\n\n".join(parts) + "\n"


def model(card: Record) -> list[str]:
    """What the model is and what it makes."""
    channels, frames, height, width = card["video"]["shape"]
    parts = ", ".join(f"{key} {count / 1e6:.2f} M" for key, count in card["parameters"].items())
    return [
        f"{frames} frames of {height}x{width} pixels, {channels} channels, {card['video']['fps']:g} a second; "
        f"{sum(card['parameters'].values()) / 1e6:.1f} M parameters, of which {parts}.",
        f"![originals, content frames, reconstructions, generated motion and samples]({card['name']}.gif)",
        "*Rows: held-out clips (`plain` on the left, `mixed` on the right), their content frames, reconstructions, the "
        "true content frame with generated motion, and samples from the clips' captions; the first ones, not chosen.*",
    ]


def training(card: Record) -> list[str]:
    """How each stage was trained."""
    header = ("stage", "config", "steps", "clips a step", "minutes")
    names = ("config", "steps", "batch_size", "minutes")
    rows = [[stage, *(record[key] for key in names)] for stage, record in card["training"].items()]
    told = [f"{card['trained_on']}.", table(header, rows)]
    if not card["progress"]:
        return [*told, f"![validation curves]({card['name']}-training.svg)"]
    numbers = ", ".join(str(number) for number in sorted({point["num"] for point in card["progress"]}))
    return [
        *told,
        f"![validation curves, and what captions gave on the way]({card['name']}-training.svg)",
        f"*On the right: held-out `plain` captions read right ({numbers} captions a point) by steps of the content "
        "model, with the motion model as far as it was then.*",
    ]


def reconstruction(cells: Record, settings: Record) -> list[str]:
    """How well the autoencoder does beside still pictures."""
    rows = []
    for value in (*SPEEDS, *ALIGNMENTS):
        row = cells[f"reconstruction/{value}"]
        what = f"middle, three shapes, alignment {value}" if value in ALIGNMENTS else value
        floors = [f"{row['psnr_of_mean_frame']:.2f}", f"{row['psnr_of_best_frame']:.2f}"]
        floors.append(f"{row['gain']:.2f} ± {row['gain_standard_error']:.2f}")
        if value == "still":
            floors = ["exact", "exact", "none possible"]
        rows.append([what, f"{row['psnr']:.2f}", f"{row['ssim']:.3f}", *floors])
    return [
        f"{settings['num']} held-out `mixed` clips each (seed 0, split test); PSNR of a clip over all its "
        "frames, mean over clips; gain over the better of mean frame and best frame, repeated, with its standard "
        "error.",
        table(("clips", "PSNR in dB", "SSIM", "mean frame", "best frame", "gain in dB"), rows),
    ]


def generation(cells: Record, settings: Record) -> list[str]:
    """What videos of captions show, where they begin, and whether they are copies."""
    plain, ceiling = cells["plain captions"], cells["reader"]
    sampling = ", ".join(
        f"{stage} model {given['steps']} steps and guidance {given['guidance']:g}"
        for stage, given in settings["sampling"].items()
    )
    questions = ("joint", "shape", "colour", "direction")
    read = [
        [what, plain[key]["num"], *(f"{plain[key][question]:.1%}" for question in questions)]
        for key, what in (("seen", "seen in training"), ("unseen", "never seen"), ("all", "all"))
    ]
    places = [
        [key, f"{row['std_x']:.3f}", f"{row['std_y']:.3f}", row["cells_of_16"], f"{row['found']:.1%}"]
        for key, row in plain["start positions"].items()
    ]
    copies = [
        [
            key,
            f"{plain['copies'][f'{key} median distance']:.1f}",
            f"{plain['copies'][f'{key} least distance']:.1f}",
            f"{plain['copies'][f'{key} copied']:.1%}",
        ]
        for key in ("generated", "real")
    ]
    header = ("combinations of shape, colour, direction", "captions", "all three right", *questions[1:])
    return [
        f"Videos of {plain['all']['num']} held-out `plain` captions, one each, seeds from 0 ({sampling}); read by "
        f"`ShapesReader`, which reads {ceiling['true clips']:.1%} of the true clips and "
        f"{ceiling['reconstructions']:.1%} of their reconstructions right. Chance is {plain['chance']:.2%}.",
        table(header, read),
        "Where the shape is in the first frame, in sides of the picture:",
        table(("clips", "std of x", "std of y", "cells of a 4x4 grid", "shape found"), places),
        f"Nearest neighbours among the first {plain['copies']['bank']} clips trained on, in grey levels between "
        "thumbnails; the real clips are held-out ones:",
        table(("clips", "median distance", "least distance", "called copies"), copies),
    ]


def failures(card: Record, settings: Record) -> list[str]:
    """Error against speed and alignment, and what people saw."""
    return [
        f"Reconstruction of {settings['num']} `mixed` clips a point, and distances of {settings['curve_num']} clips a "
        "point to as many other real clips of the same kind, over shapes features (not FVD), with "
        f"{settings['curve_steps']} steps a stage: of reconstructions, of clips with the true content frame and "
        "generated motion, and of clips generated from captions.",
        f"![error against speed and alignment]({card['name']}-failures.svg)",
        "What people saw:",
        "\n".join(f"- {remark}" for remark in card["seen"]),
    ]
