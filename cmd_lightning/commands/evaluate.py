"""`evaluate`: metrics of generated clips against real ones, each with a record of how it was measured."""

from __future__ import annotations

import logging
import sys
import warnings
from contextlib import redirect_stdout
from typing import TYPE_CHECKING, Any, Literal

from cmd_lightning.errors import InputError

if TYPE_CHECKING:
    from cmd_lightning.data.sources import ClipSource


def evaluate(
    *,
    real: str | None = None,
    fake: str | None = None,
    metrics: list[str],
    preset: str | None = None,
    num: int | None = None,
    frames: int = 16,
    stride: int | None = None,
    fps: float | None = None,
    size: str | None = None,
    choose: Literal["random", "first"] = "random",
    random_start: bool = False,
    layout: str | None = None,
    prompts: str | None = None,
    statistics: str | None = None,
    save_statistics: str | None = None,
    intervals: bool = False,
    trust_torchscript: bool = False,
    batch_size: int = 16,
    workers: int = 2,
    devices: int = 1,
    nodes: int = 1,
    seed: int = 0,
    json: str | None = None,
) -> None:
    """Compares two sets of clips: shards (.tar), folders of videos or of PNG folders, arrays (.npy, .pt).

    Args:
        real: Real clips.
        fake: Generated clips.
        metrics: fvd, kvd, is, clipsim, psnr, ssim, lpips; over other features frechet:FEATURE, kernel:FEATURE,
            is:CLASSIFIER, clipsim:MODEL/WEIGHTS. FEATURE is shapes, a file of I3D weights, an importable class, or an
            id or folder of a VideoMAE or V-JEPA 2 checkpoint. fvd and kvd take the I3D that CMD_I3D_WEIGHTS names, or
            download it.
        preset: How clips are prepared for the I3D: stylegan-v, videogpt or tf, also with knobs set over it, as in
            videogpt,antialias=true (default: stylegan-v).
        num: Clips of either set (default: all); 2048 is usual.
        frames: Frames of a clip.
        stride: Take every STRIDE-th frame of the files (default: 1).
        fps: Sample the files at this many frames a second instead.
        size: Bring clips to this many pixels first, SIDE or HEIGHTxWIDTH: scaled to cover it, then cropped (default:
            their own size).
        choose: Which clips if there are more than num: drawn by the seed, or the first by name.
        random_start: Begin real clips at a frame drawn by the seed, not at the first.
        layout: Axes of an array, as NTHWC, where they cannot be told from its shape.
        prompts: Text file with a caption a line for the generated clips, in order of their names.
        statistics: Statistics of real clips that --save-statistics wrote, in place of --real.
        save_statistics: Save those of the real clips to this .safetensors file.
        intervals: Keep all features, and tell each distance at a quarter and half of the clips too, extrapolated, and
            with an interval.
        trust_torchscript: Open torchscript weights that are not StyleGAN-V's own; torchscript is code.
        batch_size: Clips at once on a device.
        workers: Processes that decode clips, for each device.
        devices: GPUs, or processes where there is none, of each node.
        nodes: Nodes, started by torchrun or SLURM.
        seed: Of the choice of clips and of where they begin.
        json: Write the records to this file; - is standard output, with nothing else on it.
    """
    check(real, fake, statistics, save_statistics)
    for name, value, least in (("batch-size", batch_size, 1), ("workers", workers, 0), ("devices", devices, 1)):
        if value < least:
            raise InputError(f"--{name} {value}: give at least {least}")
    names = [name for word in metrics for name in word.split(",") if name]
    if not names:
        raise InputError("--metrics: none given; try fvd, or frechet:FEATURE")
    from lightning import Trainer

    from cmd_lightning.commands.files import write_json
    from cmd_lightning.components.evaluation import Evaluation
    from cmd_lightning.data.evaluation import EvaluationData
    from cmd_lightning.data.sources import Selection, open_source
    from cmd_lightning.metrics.suite import MetricSuite
    from cmd_lightning.provenance import provenance

    choice = {"frames": frames, "stride": stride, "fps": fps, "size": pixels(size), "num": num, "choose": choose}
    sources: dict[str, ClipSource] = {}
    for side, path in (("real", real), ("fake", fake)):
        if path is not None:
            selection = Selection(**choice, seed=seed, layout=layout, random_start=random_start and side == "real")
            sources[side] = open_source(path, selection)
    with warnings.catch_warnings(action="ignore", category=UserWarning):  # of weights: their records tell
        suite = MetricSuite(names, preset=preset, intervals=intervals, trust_torchscript=trust_torchscript)
    about = {side: source.describe() for side, source in sources.items()}
    evaluation = Evaluation(
        suite,
        {"frames": frames, "stride": stride, "fps": fps, "random_start": random_start},
        statistics,
        save_statistics,
        about.get("real"),
    )
    captions = read_prompts(prompts, sources.get("fake"))
    data = EvaluationData(**sources, captions=captions, paired=suite.paired, batch_size=batch_size, workers=workers)
    notes = check_rates(about.get("real"), about.get("fake"), stride)
    with redirect_stdout(sys.stderr), warnings.catch_warnings():
        for message in (".*does not have many workers.*", ".*isinstance.treespec, LeafSpec.*"):
            warnings.filterwarnings("ignore", message=message)
        logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.WARNING)  # what devices it lacks
        trainer = Trainer(
            devices=devices,
            num_nodes=nodes,
            logger=False,
            enable_checkpointing=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
        )
        trainer.test(evaluation, data, verbose=False)
    if not trainer.is_global_zero:
        return
    about["real"] = evaluation.about
    notes = notes or check_rates(about["real"], about.get("fake"), stride)
    protocol = {"real": about["real"], "generated": about.get("fake"), "precision": "float32"} | provenance()
    records = []
    for record in evaluation.records:
        told = record.pop("warnings", []) + notes
        records.append(record | protocol | ({"warnings": told} if told else {}))
        print(line(records[-1]), file=sys.stderr if json == "-" else sys.stdout)
    for warning in dict.fromkeys(warning for record in records for warning in record.get("warnings", [])):
        print(f"warning: {warning}", file=sys.stderr)
    if save_statistics:
        print(f"statistics of {about['real']['clips']} real clips: {save_statistics}", file=sys.stderr)
    write_json(records, json)


def check(real: str | None, fake: str | None, statistics: str | None, save_statistics: str | None) -> None:
    """Refuse what does not go together."""
    if (real is None) == (statistics is None):
        raise InputError("--real, --statistics: give one of the two, real clips or their saved statistics")
    if fake is None and save_statistics is None:
        raise InputError("--fake: give generated clips, or only --save-statistics FILE for those of the real ones")
    if save_statistics is not None and real is None:
        raise InputError(f"--save-statistics {save_statistics}: give the real clips with --real")
    if save_statistics is not None and not save_statistics.endswith(".safetensors"):
        raise InputError(f"--save-statistics {save_statistics}: end the name in .safetensors")


def pixels(size: str | None) -> tuple[int, int] | None:
    """Reads "64" or "64x96" (height x width)."""
    if size is None:
        return None
    sides = size.split("x")
    if len(sides) > 2 or not all(side.isdigit() and int(side) for side in sides):
        raise InputError(f"--size {size}: give SIDE or HEIGHTxWIDTH in pixels, as 64 or 64x96")
    return int(sides[0]), int(sides[-1])


def read_prompts(path: str | None, fake: ClipSource | None) -> list[str] | None:
    """Captions of all generated clips, in order of their names."""
    if path is None or fake is None:
        return None
    from cmd_lightning.commands.generate import conditions

    lines = conditions(None, path, None)
    if len(lines) != fake.of:
        raise InputError(f"--prompts {path}: {len(lines)} captions for {fake.of} clips of --fake; give one each")
    return lines


def check_rates(real: dict[str, Any] | None, fake: dict[str, Any] | None, stride: int | None) -> list[str]:
    """Refuse sets of different frame rates, where both are known; only a warning where a stride was asked for."""
    one, two = (side["fps"] if side else None for side in (real, fake))
    if not one or not two or abs(one - two) <= 0.01 * one:
        return []
    told = f"real clips have {one:g} frames a second, generated ones {two:g}: the distance measures that too"
    if stride is None:
        raise InputError(f"--real, --fake: {told}; give --fps {min(one, two):g}, or --stride to have it so")
    return [told]


def line(record: dict[str, Any]) -> str:
    """A result for people."""
    text = f"{record['metric']}: {record['value']:.5g}"
    if "standard_deviation" in record:
        text += f" ± {record['standard_deviation']:.3g} over {record['splits']} splits"
    if "clips" in record:
        text += f"  ({record['clips']['real']} real, {record['clips']['generated']} generated)"
    if "interval_95" in record:
        low, high = record["interval_95"]
        curve = ", ".join(f"{value:.5g} with {number} clips" for number, value in record["at"].items())
        text += f"\n    95 % interval {low:.5g} to {high:.5g}; {curve}, {record['extrapolated']:.5g} extrapolated"
    return text
