"""`train`: from a folder of clips to a trained model, its samples and a report; the same command resumes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from cmd_lightning.atomic_files import replaced
from cmd_lightning.commands import stages, train_configs
from cmd_lightning.commands.calls import call
from cmd_lightning.commands.files import read_prompts, tell
from cmd_lightning.commands.train_configs import stage_of
from cmd_lightning.errors import InputError, check_at_least

STOPPED = (130, 143)
"""Exit codes after Ctrl-C or SIGTERM."""

RECORD = "train.json"
"""Settings and facts of a run, in its folder; a folder without this file is not a run, and is left unchanged."""

HOLD_OUT = 0.1
"""The share of the clips that are held out from training."""

GUIDANCE = "content=2,motion=1"
"""Default guidance scales of the model."""

LARGEST = 512
"""Largest side of frames; larger ones cannot be learned from scratch in pixels, and need too much memory."""

SHOWN = 8
"""Number of samples to generate."""


def train(
    clips: str,
    *,
    out: str,
    captions: str | None = None,
    classes: bool = False,
    minutes: float | None = None,
    steps: int | None = None,
    size: int = 64,
    seed: int = 0,
) -> None:
    """Train a model on your own clips: pack, train three stages, export, sample, score, and write OUT/report.html.

    The same command resumes an interrupted run; with larger --minutes or --steps it trains a finished one longer. A
    tenth of the clips is held out for the scores. Each command is printed before it runs, and its config is in OUT,
    so you can change the config and run the command yourself; changed configs are kept. OUT/model,
    OUT/samples and the report are written again in each call.

    Args:
        clips: Folder of clips (MP4, MOV, AVI, MKV, WebM, MPEG, WMV, FLV, Ogg, GIF, animated WebP and PNG), or of shards
            with the splits train and test.
        out: Folder of the run, not in CLIPS.
        captions: Table as for `shards pack`; the model is conditioned on its captions.
        classes: Condition the model on classes, not captions: the labels of the table, or the subfolders of CLIPS.
        minutes: Total training time, 60 by default; packing, scores and samples take a few minutes more.
        steps: Training steps of each stage, instead of a time.
        size: Side of the square frames in pixels, a multiple of 8 from 16 to 512.
        seed: Seed for the choice of held-out clips, for training and for the samples.
    """
    if minutes is not None and steps is not None:
        raise InputError(f"--minutes {minutes:g} and --steps {steps}: give one of the two")
    if minutes is not None and not 0 < minutes < float("inf"):
        raise InputError(f"--minutes {minutes:g}: give a positive number")
    check_at_least(1, steps=1 if steps is None else steps)
    if not 16 <= size <= LARGEST or size % 8:
        raise InputError(f"--size {size}: give a multiple of 8 from 16 to {LARGEST}")
    if not 0 <= seed < 2**32:
        raise InputError(f"--seed {seed}: give a whole number from 0 to 2**32 - 1")
    if not Path(clips).is_dir():
        raise InputError(f"CLIPS {clips}: no such folder; give the folder of your clips")
    if captions is not None and not Path(captions).exists():
        raise InputError(f"--captions {captions}: no such file; give a table of the clips, or leave it out")
    if Path(clips).resolve() in [Path(out).resolve(), *Path(out).resolve().parents]:
        raise InputError(f"--out {out}: it is in the folder of the clips; give one outside of it")
    settings = {"clips": clips, "captions": captions, "classes": classes, "size": size, "seed": seed}
    run = open_run(Path(out), settings)
    try:
        pack(run)

        from cmd_lightning.commands.train_page import write_page

        train_configs.write_configs(run)
        fit(run, None if steps else minutes or 60, steps)
        sample(run)
        print(write_page(run))
    except (KeyboardInterrupt, SystemExit) as error:
        if isinstance(error, KeyboardInterrupt) or error.code in STOPPED:
            tell(f"{out}: stopped{so_far(run)}; run the same command to resume")
        raise


class Run:
    """A run: its folder and its record.

    Attributes:
        folder: Folder for all files of the run.
        settings: Its options, by name.
        facts: Facts about the clips, and its commands with their times.
    """

    def __init__(self, folder: Path, settings: dict[str, Any], facts: dict[str, Any]) -> None:
        self.folder, self.settings, self.facts = folder, settings, facts

    def note(self, **facts: Any) -> None:
        """Adds to the facts and writes the record."""
        self.facts |= facts
        self.folder.mkdir(parents=True, exist_ok=True)
        with replaced(self.folder / RECORD) as draft:
            draft.write_text(json.dumps({"settings": self.settings, "facts": self.facts}, indent=2) + "\n")

    def call(self, *words: object) -> None:
        """Prints a command, runs it in this process, and records its time."""
        done = call(*words)
        self.note(commands=[*self.facts["commands"], done])


def open_run(folder: Path, settings: dict[str, Any]) -> Run:
    """Begins a run in a new or empty folder, or continues one that was started with the same settings.

    Settings may change until the clips are packed, so that mistakes can be corrected.
    """
    path = folder / RECORD
    if folder.exists() and not folder.is_dir():
        raise InputError(f"--out {folder}: this is a file; give a folder")
    if not path.is_file():
        if folder.is_dir() and any(folder.iterdir()):
            raise InputError(f"--out {folder}: not empty and not a training run; give a new or empty folder")
        run = Run(folder, settings, {"commands": []})
        run.note()
        return run
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        started, facts = record["settings"], dict(record["facts"])
        differing = [name for name, value in settings.items() if not same(value, started[name])]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"--out {folder}: its {RECORD} is damaged; give a new or empty folder") from error
    if "splits" not in facts:
        return Run(folder, settings, {"commands": []})
    for name in differing:
        raise InputError(
            f"`{name}` {settings[name]}: the run in {folder} was started with {started[name]}; give that, or another "
            "--out"
        )
    print(f"{folder}: resuming the run, with the clips that it has packed", flush=True)
    return Run(folder, settings, facts)


def same(value: Any, other: Any) -> bool:
    """Whether two settings are equal; paths may differ in a slash at the end."""
    return Path(value) == Path(other) if isinstance(value, str) and isinstance(other, str) else value == other


def so_far(run: Run) -> str:
    """The steps in the checkpoints of a run, as text."""
    steps = {name: stage_of(run.folder, name).trained.steps for name in train_configs.STAGES}
    kept = [f"{name} at step {done}" for name, done in steps.items() if done]
    return f" ({', '.join(kept)})" if kept else ""


def pack(run: Run) -> None:
    """Packs the clips, if not done yet, and records facts about them."""
    if "splits" in run.facts:
        return
    clips, shards = Path(run.settings["clips"]), run.folder / "shards"
    folders = {"train": clips / "train", "test": clips / "test"}
    captions = run.settings["captions"]
    if all(any(folder.glob("*.tar")) for folder in folders.values()):
        if captions:
            raise InputError(f"--captions {captions}: CLIPS {clips} are shards with their own captions; leave it out")
    else:
        held_out = split_of(clips, captions)
        folders = {"train": shards / "train", "test": shards / (held_out or "test")}
        shutil.rmtree(shards, ignore_errors=True)  # files of an interrupted run
        table = ("--captions", captions) if captions else ()
        options = () if held_out else ("--hold-out", HOLD_OUT, "--seed", run.settings["seed"])
        report = run.folder / "pack.json"
        run.call("shards", "pack", "--videos", clips, *table, *options, "--out", shards, "--json", report)
    facts = train_configs.facts_of(folders, run.settings)
    run.note(splits={split: folder.as_posix() for split, folder in folders.items()}, **facts)


def split_of(clips: Path, captions: str | None) -> str | None:
    """The name of the held-out split in the table; None if the table has no splits."""
    from cmd_lightning.cli import spelling
    from cmd_lightning.packing.annotations import read_annotations

    with spelling({"videos": "CLIPS", "captions": "--captions"}):
        splits = {row.split for row in read_annotations(clips, Path(captions) if captions else None).rows} - {""}
    if not splits:
        return None
    held_out = next((split for split in ("test", "val") if split in splits), None)
    if held_out is None or "train" not in splits:
        there = ", ".join(sorted(splits))
        raise InputError(f"--captions {captions}: splits {there}; name them train and test, or remove the column")
    return held_out


def fit(run: Run, minutes: float | None, steps: int | None) -> None:
    """Trains the stages: the autoencoder, then content and motion model at the same time, or on a GPU in turn."""
    import torch

    from cmd_lightning.threads import cores

    side_by_side = not torch.cuda.is_available() and cores() > 1
    complete = True
    options: list[str] = []
    if steps is not None:
        trainer = {"max_steps": steps, "val_check_interval": min(200, steps), "log_every_n_steps": min(10, steps)}
        options = [word for name, value in trainer.items() for word in (f"--trainer.{name}", str(value))]
    for names in train_configs.ROUNDS:
        for group in [names] if side_by_side else [(name,) for name in names]:
            pending = {}
            for name in group:
                stage, left = stage_of(run.folder, name), None
                done = stage.trained
                if minutes is not None:
                    share = train_configs.SHARES[name] / (1 if side_by_side or len(names) == 1 else 2)
                    left = 60 * minutes * share - done.seconds
                started = name == "autoencoder" and stage_of(run.folder, "content").checkpoint.exists()
                if not started and ((left or 0) > 1 if steps is None else done.steps < steps):
                    pending[stage] = left
            if pending:
                complete = False
                if len(pending) > 1:
                    print(f"\n{' and '.join(stage.name for stage in pending)} are trained at the same time", flush=True)
                threads = max(1, cores() // len(pending)) if side_by_side else None
                run.note(
                    side_by_side=side_by_side,
                    commands=[*run.facts["commands"], *stages.fit(pending, options, threads)],
                )
    if complete:
        limit = f"--minutes {minutes:g}" if minutes else f"--steps {steps}"
        print(f"all stages are already trained for {limit}; give more to train longer", flush=True)


def sample(run: Run) -> None:
    """Exports the model, scores it on held-out clips, generates samples; replaces those of an earlier call."""
    folder, seed = run.folder, run.settings["seed"]
    for name in ("model", "samples"):
        shutil.rmtree(folder / name, ignore_errors=True)
    checkpoints = [stage_of(folder, name).checkpoint for name in train_configs.STAGES]
    sampling = ("--steps", train_configs.SAMPLING_STEPS, "--guidance", GUIDANCE)
    run.call("export", *checkpoints, folder / "model", *sampling)
    run.call("test", "-c", folder / "cmd.yaml")
    options: tuple[object, ...] = ("--num", SHOWN)
    if run.facts["condition"] == "captions":
        prompts = folder / "prompts.txt"
        if not prompts.exists():  # otherwise they may be the user's
            with replaced(prompts) as draft:
                draft.write_text("\n".join(run.facts["prompts"]) + "\n", encoding="utf-8")
        options = ("--prompts", prompts, "--num", -(-SHOWN // len(read_prompts(str(prompts)))))
    elif run.facts["condition"] == "classes":
        shown = run.facts["classes"][:SHOWN]
        options = ("--class", *range(len(shown)), "--num", -(-SHOWN // len(shown)))
    run.call("generate", folder / "model", *options, "--seed", seed, "--out", folder / "samples")
