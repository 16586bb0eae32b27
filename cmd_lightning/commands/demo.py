"""`demo`: runs the included model and writes a report."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from cmd_lightning.commands.calls import call
from cmd_lightning.commands.derived_configs import write_config
from cmd_lightning.errors import InputError

MODEL = "shapes32"
"""The included model, and the folder of the configs that trained it."""

EVALUATED = 64  # test clips
LEVELS = ("plain", "mixed")  # half of the test clips each

PROMPTS = (
    "a red circle moves left",
    "a large yellow square moves right",
    "a green triangle moves down",
    "a blue circle moves up right",
    "a large white diamond moves down left",
    "a cyan square moves up",
    "a pink circle moves down right",
    "a large orange triangle moves up left",
)

RECORD = "demo.json"
"""Settings of the demo; a folder without this file is not a demo, and is left unchanged."""

WRITTEN = ("shards", "cmd", "cmd.yaml", "prompts.txt", "samples", "scores.json", "report.html", RECORD)
"""Files of a demo."""


def demo(*, out: str = "outputs/demo", seed: int = 0) -> None:
    """Run the included model: write test clips, compute scores, generate videos, write a report. Takes a few minutes.

    Each command is printed before it runs. Shards, configs, logs and videos are written to OUT, and the report to
    OUT/report.html. `cmd-lightning train` does the same for a model of your own clips.

    Args:
        out: Folder for everything; an earlier demo in it is replaced, other files are kept.
        seed: Seed of the test clips and of every video.
    """
    from cmd_lightning.commands.demo_page import write_page

    folder = Path(out)
    settings: dict[str, Any] = {
        "model": MODEL,
        "seed": seed,
        "evaluated": EVALUATED,
        "levels": LEVELS,
        "prompts": PROMPTS,
    }
    clear(folder)
    (folder / RECORD).write_text(json.dumps(settings, indent=2) + "\n")
    settings["commands"] = [call(*words) for words in commands(folder, settings)]
    (folder / RECORD).write_text(json.dumps(settings, indent=2) + "\n")
    print(write_page(folder, settings))


def clear(folder: Path) -> None:
    """Removes an earlier demo from `folder`, and nothing else, or creates the folder."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"--out {folder}: this is a file; give a folder")
    if folder.is_dir() and any(folder.iterdir()):
        if not (folder / RECORD).is_file():
            raise InputError(f"--out {folder}: it is not empty and not a demo; give a new folder, or empty it")
        for name in WRITTEN:
            path = folder / name
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
    folder.mkdir(parents=True, exist_ok=True)


def commands(folder: Path, settings: dict[str, Any]) -> Iterator[Sequence[object]]:
    """The commands of the demo; each is yielded after its inputs are written."""
    for level in settings["levels"]:
        number = settings["evaluated"] // len(settings["levels"])
        options = ("--split", "test", "--level", level, "--num", number, "--size", 32, "--seed", settings["seed"])
        yield "shards", "synth", "--out", folder / "shards" / level, *options
    comments = [f"configs/{MODEL}/cmd.yaml, changed for the demo."]
    yield "test", "-c", write_config(folder, MODEL, "cmd", comments, test_settings(folder, settings))
    prompts = folder / "prompts.txt"
    prompts.write_text("\n".join(settings["prompts"]) + "\n")
    yield "generate", settings["model"], "--prompts", prompts, "--seed", settings["seed"], "--out", folder / "samples"


def test_settings(folder: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """The demo's changes to the config of the three stages together: the model, and clips from its shards."""
    shards = [(folder / "shards" / level / "test").as_posix() for level in settings["levels"]]
    data = {"test_shards": shards, "num_frames": 16, "size": 32, "stride": 1, "batch_size": 16}
    return {
        "seed_everything": settings["seed"],
        "model": {"init_args": {"model": settings["model"]}},
        "data": {"class_path": "WebVidDataModule", "init_args": data},
        "trainer": {"logger": False, "callbacks": [], "enable_model_summary": False, "devices": 1},
    }
