"""`evaluate`: metrics of generated clips against real ones, each with its protocol."""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Collection
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cmd_lightning.commands.files import make_folder, pixels, read_prompts, tell, write_json
from cmd_lightning.commands.loading import loading
from cmd_lightning.commands.processes import check_nodes, clip_bar, quiet_trainer
from cmd_lightning.errors import InputError, check_at_least, check_positive
from cmd_lightning.metric_names import DISTANCES, PAIRED, Asked

if TYPE_CHECKING:
    from cmd_lightning.evaluation.sources import ClipSource
    from cmd_lightning.metrics.suite import MetricSuite


BY_ORDER = "no name is on both sides, so clips are paired by the order of their names"


def evaluate(
    *,
    real: str | None = None,
    fake: str | None = None,
    metrics: str,
    preset: str | None = None,
    num: int | None = None,
    frames: int = 16,
    stride: int | None = None,
    fps: float | None = None,
    size: str | None = None,
    choose: Literal["random", "first"] = "random",
    random_start: bool = False,
    layout: str | None = None,
    deinterlace: bool = False,
    tone_map: bool = False,
    background: str = "white",
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
    """Compare two sets of clips: shards (.tar), folders of videos or of PNG folders, arrays (.npy, .pt).

    Args:
        real: Real clips.
        fake: Generated clips.
        metrics: One or several, separated by commas: fvd, kvd, clipsim, psnr, ssim, lpips; on other features
            frechet:FEATURE, kernel:FEATURE, is:CLASSIFIER, clipsim:MODEL/TAG. FEATURE is i3d, a file of I3D weights,
            an importable class such as my_package.Network, an id or folder of a VideoMAE or V-JEPA 2 checkpoint, or
            shapes; CLASSIFIER is one of the first three. fvd and kvd use the I3D file in CMD_I3D_WEIGHTS, or download
            it.
        preset: How clips are prepared for the I3D: stylegan-v, videogpt or tf, optionally with changes, as in
            videogpt,antialias=true (default: stylegan-v).
        num: Number of clips from each set (default: all); 2048 is usual.
        frames: Frames of a clip.
        stride: Use every STRIDE-th frame of the files, at any frame rates (default: 1, if all rates are equal).
        fps: Sample the files at this many frames per second instead.
        size: Resize clips first, to SIDE or HEIGHTxWIDTH pixels: scaled to cover it, then cropped (default: their own
            size).
        choose: Which clips are used if there are more than num: random ones, or the first by name.
        random_start: Start real clips at a random frame, not at the first.
        layout: Axes of an array, such as NTHWC, if its shape is ambiguous.
        deinterlace: Rebuild the missing lines of frames that are flagged as interlaced.
        tone_map: Map HDR frames (PQ and HLG) to ordinary video.
        background: Colour behind transparent pixels, a name or #rrggbb.
        prompts: Text file with a caption per line for the generated clips, in order of their names.
        statistics: Statistics of real clips written by --save-statistics, instead of --real.
        save_statistics: Save the statistics of the real clips to this .safetensors file.
        intervals: Keep all features; also report each distance at a quarter and half of the clips, extrapolated to
            infinitely many clips, and with a bootstrap interval.
        trust_torchscript: Open TorchScript weights other than StyleGAN-V's; TorchScript files can run code.
        batch_size: Clips per batch on each device.
        workers: Decoding processes per device.
        devices: GPUs per node; without GPUs, processes per node.
        nodes: Nodes, started by torchrun or SLURM.
        seed: Seed for choosing clips and start frames.
        json: Write the records to this file; - is standard output, with nothing else on it.
    """
    given = {"frames": frames, "stride": stride, "num": num}
    check_positive(batch_size=batch_size, devices=devices, nodes=nodes)
    check_positive(**{name: value for name, value in given.items() if value is not None})
    check_at_least(0, workers=workers)
    check_nodes(nodes)
    asked = {text: Asked.parse(text) for text in filter(None, map(str.strip, metrics.split(",")))}
    kinds = {one.kind for one in asked.values()}
    paired = bool(kinds & PAIRED.keys())
    check_inputs(list(asked), kinds, real, fake, prompts, statistics, save_statistics)
    check_targets(save_statistics, json)
    if paired and random_start:
        raise InputError("--random-start: for psnr, ssim and lpips both clips begin at the same frame; leave it out")
    with loading("libraries"):
        from cmd_lightning.components.evaluation import Evaluation
        from cmd_lightning.data.bad_samples import describe
        from cmd_lightning.evaluation.datamodule import EvaluationData
        from cmd_lightning.evaluation.sources import Selection, open_source
        from cmd_lightning.metrics.statistics import describe_statistics
        from cmd_lightning.metrics.suite import MetricSuite
        from cmd_lightning.viewing import Viewing

    step = stride if fps else stride or 1
    viewing = Viewing(deinterlace, tone_map, background)
    reading: dict[str, Any] = {"frames": frames, "stride": step, "fps": fps, "size": pixels(size)}
    sources = {}
    for side, path in (("real", real), ("fake", fake)):
        if path is not None:
            starts = random_start and side == "real"
            selection = Selection(
                **reading, viewing=viewing, num=num, choose=choose, random_start=starts, seed=seed, layout=layout
            )
            sources[side] = open_source(path, selection)
            if skipped := sources[side].skipped:
                tell(f"--{side} {path}: not used: {describe(skipped)}")
    captions = captions_of(prompts, sources.get("fake"))
    ignored = warnings.catch_warnings(action="ignore", category=UserWarning)  # records have the warnings about weights
    with ignored, redirect_stdout(sys.stderr):
        suite = MetricSuite(list(asked), None, preset, intervals, trust_torchscript, skip_missing=True)
    for name, why in suite.missing.items():
        tell(f"{name} is left out: {why}")
    if save_statistics and not suite.distances:
        raise InputError(f"--save-statistics {save_statistics}: {next(iter(suite.missing.values()))}")
    check_counts(suite, sources, devices * nodes)
    if not (suite.distances or suite.paired):
        sources.pop("real", None)  # requested by metrics that are left out
    elif not suite.distances:
        statistics = None
    about = {} if statistics is None else {"real": describe_statistics(statistics)}
    about |= {side: source.describe() for side, source in sources.items()}
    check_sizes({side: tuple(facts["size"]) for side, facts in about.items()})
    rates = [side["fps"] for side in about.values() if side["fps"]]
    evaluation = Evaluation(
        suite,
        reading | viewing.describe(),
        fps=rates[0] if rates and stride is None else None,
        load_from=statistics,
        save_to=save_statistics,
        about=about.get("real"),
    )
    data = EvaluationData(**sources, captions=captions, paired=suite.paired, batch_size=batch_size, workers=workers)
    bar = clip_bar(sum(map(len, sources.values())))
    with quiet_trainer(devices, nodes, callbacks=[bar], enable_progress_bar=False) as trainer:
        trainer.test(evaluation, data, verbose=False)
    if not trainer.is_global_zero:
        return
    if evaluation.error is not None:
        raise InputError(evaluation.error)
    notes = [BY_ORDER] if data.by_order else []
    report(evaluation.records, about, evaluation.rates.union(rates), notes, json)
    if save_statistics:
        tell(f"statistics of {about['real']['clips']} real clips: {save_statistics}")
    if suite.missing:
        raise InputError(f"--metrics: all but {', '.join(suite.missing)} are done; {'; '.join(suite.missing.values())}")


def report(
    results: list[dict[str, Any]], about: dict[str, Any], rates: set[float], of_pairs: list[str], json: str | None
) -> None:
    """Prints the results with their warnings, and writes them with their protocol."""
    from cmd_lightning.provenance import provenance

    notes = []
    if rates and max(rates) > 1.02 * min(rates):
        notes = [f"clips have from {min(rates):g} to {max(rates):g} frames per second, which changes distances too"]
    protocol = about | {"precision": "float32"} | provenance()
    records = [result | protocol for result in results]
    width = max((len(record["metric"]) for record in records), default=0)
    for record in records:
        if own := notes + (of_pairs if record["metric"] in PAIRED else []):
            record["warnings"] = record.get("warnings", []) + own
        print(line_of(record, width), file=sys.stderr if json == "-" else sys.stdout)
    for warning in dict.fromkeys(warning for record in records for warning in record.get("warnings", [])):
        print(f"warning: {warning}", file=sys.stderr)
    write_json(records, json)


def check_targets(save_statistics: str | None, json: str | None) -> None:
    """Create the folders of the output files before the evaluation starts."""
    for option, target in (("--save-statistics", save_statistics), ("--json", json)):
        if target not in (None, "-"):
            make_folder(Path(target).parent, option)
            if Path(target).is_dir():
                raise InputError(f"{option} {target}: it is a folder; give a file")


def check_sizes(sizes: dict[str, tuple[int, int]]) -> None:
    """Reject two sets of clips of different heights or widths."""
    if len(set(sizes.values())) > 1:
        given = ", ".join(f"--{side} has {height}x{width} pixels" for side, (height, width) in sizes.items())
        height, width = map(min, zip(*sizes.values(), strict=True))
        least = height if height == width else f"{height}x{width}"
        raise InputError(f"{given}: the sizes must be equal; give --size {least}")


def check_counts(suite: MetricSuite, sources: dict[str, ClipSource], processes: int) -> None:
    """Reject fewer clips than the metrics or the processes need."""
    for side, source in sources.items():
        least = 10 if side == "fake" and suite.asks("is") else 2 if suite.distances else 1
        if len(source) < least:
            asked = ", ".join(entry.label for entry in suite.entries)
            raise InputError(f"--{side} {source.path}: number of clips {len(source)}; {asked} needs at least {least}")
    most = max(map(len, sources.values()))
    if processes > most:  # a process without clips would end before the others
        raise InputError(f"--devices, --nodes: {most} clips are too few for {processes} processes; give no more")


def check_inputs(
    names: Collection[str],
    kinds: Collection[str],
    real: str | None,
    fake: str | None,
    prompts: str | None,
    statistics: str | None,
    save_statistics: str | None,
) -> None:
    """Reject options that conflict or would be ignored."""
    asked, distances = ", ".join(names), not DISTANCES.keys().isdisjoint(kinds)
    of_both = distances or not PAIRED.keys().isdisjoint(kinds)
    if not names:
        raise InputError("--metrics: none given; try fvd, or frechet:FEATURE")
    if of_both and (real is None) == (statistics is None):
        raise InputError("--real, --statistics: give one of the two, real clips or their saved statistics")
    if not of_both and (real or statistics):
        raise InputError(f"--real, --statistics: {asked} needs generated clips only; leave them out")
    if fake is None and save_statistics is None:
        raise InputError("--fake: give generated clips, or only --save-statistics FILE for those of the real clips")
    if save_statistics is not None and not (real and distances and save_statistics.endswith(".safetensors")):
        raise InputError(
            f"--save-statistics {save_statistics}: give a name that ends in .safetensors, real clips by --real, and "
            "distances by --metrics"
        )
    if prompts is not None and "clipsim" not in kinds:
        raise InputError(f"--prompts {prompts}: {asked} uses no captions; leave it out, or add clipsim")
    for option, path in (("--real", real), ("--fake", fake), ("--prompts", prompts), ("--statistics", statistics)):
        if path and not re.search(r"[*?{[]|://", path) and not Path(path).exists():
            raise InputError(f"{option} {path}: there is no such file or folder; check the path")


def captions_of(path: str | None, fake: ClipSource | None) -> list[str] | None:
    """Captions of all generated clips, in order of their names."""
    if path is None or fake is None:
        return None
    lines = read_prompts(path)
    if len(lines) != fake.of:
        raise InputError(
            f"--prompts {path}: {len(lines)} captions for {fake.of} clips of --fake; give one for each, blank "
            "lines do not count"
        )
    return lines


def line_of(record: dict[str, Any], width: int = 0) -> str:
    """A result as text in columns; `width` is that of the longest name."""
    text = f"{record['metric'] + ':':{width + 1}} {record['value']:<8.5g}"
    if "standard_deviation" in record:
        text += f" ± {record['standard_deviation']:.3g} over {record['splits']} splits"
    clips = ", ".join(f"{number} {side}" for side, number in record["clips"].items())
    text += f"  ({clips})"
    if "interval_95" in record:
        low, high = record["interval_95"]
        curve = ", ".join(f"{value:.5g} with {number} clips" for number, value in record["at"].items())
        text += f"\n    95 % interval {low:.5g} to {high:.5g}; {curve}, {record['extrapolated']:.5g} extrapolated"
    return text
