"""The commands and programs on the pages of the site: all parse, and those that need nothing special run.

A comment above a block, `<!-- needs: ... -->` or `<!-- run by: FILE -->`, says why it does not run here.
"""

import itertools
import os
import re
import shlex
from pathlib import Path

import pytest
import torch
from PIL import Image

from cmd_lightning.cli import TRAINING, VERBS, function_of
from cmd_lightning.commands.parser import parser_of
from cmd_lightning.errors import InputError
from cmd_lightning.video_encoding import write_video

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^(?:<!-- (needs|run by): (.+?) -->\n)?```(sh|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
WITH_BLOCKS = [page for page in PAGES if BLOCK.search(page.read_text())]

BRIEF = """
import sys
from cmd_lightning.cli import main

given = sys.argv[1:]
if "--minutes" in given:
    place = given.index("--minutes")
    given[place : place + 2] = ["--steps", "2", "--size", "16"]
if given[0] == "generate" and "--again" not in given:
    given += ["--steps", "2"]
sys.exit(main(given))
"""
"""`cmd-lightning`, with few steps."""


def name_of(page):
    return str(page.relative_to(ROOT))


def commands(script):
    """The words of each `cmd-lightning` command of a shell script, with its arrays filled in."""
    for name, words in re.findall(r"(\w+)=\(([^)]*)\)", script):
        script = script.replace(f'"${{{name}[@]}}"', words)
    for line in script.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words and words[0] == "cmd-lightning":
            yield words[1:]


def checked(words):
    """Raises if a command does not exist, has an unknown option or lacks a required one, or names no config."""
    if "--import" in words:
        place = words.index("--import")
        words = words[:place] + words[place + 2 :]
    if words[0] in TRAINING:
        configs = [value for option, value in itertools.pairwise(words) if option in ("-c", "--config")]
        missing = [name for name in configs if name.startswith("configs/") and not (ROOT / name).is_file()]
        if missing or not (configs or "--model.help" in words):
            raise InputError(f"{' '.join(words)}: give a config that there is")
        return
    verb = next((name for name in (" ".join(words[:2]), words[0]) if name in VERBS), None)
    if verb is None:
        raise InputError(f"{words[0]}: no such command")
    parser_of(function_of(verb), verb).parse_all(words[len(verb.split()) :])


@pytest.mark.parametrize("page", WITH_BLOCKS, ids=name_of)
def test_every_command_parses(page):
    for *_, kind, text in BLOCK.findall(page.read_text()):
        for words in commands(text) if kind == "sh" else ():
            checked(words)


@pytest.mark.parametrize(
    "line",
    [
        "cmd-lightning generate shapes32 --promt x",
        "cmd-lightning fit -c configs/none.yaml",
        "cmd-lightning fit",
        "cmd-lightning traim clips --out x",
        "cmd-lightning evaluate --real \\\n a",
    ],
)
def test_a_wrong_command_is_found(line):
    [words] = commands(line)
    with pytest.raises(InputError):
        checked(words)


def test_marks_name_tests_that_there_are():
    marks = [(mark, what) for page in PAGES for mark, what, *_ in BLOCK.findall(page.read_text()) if mark]
    assert marks
    for mark, what in marks:
        assert mark == "needs" or (ROOT / what).is_file(), what


def write_clips(folder, number=10):
    """Clips of a bright square that rises or falls, and their table."""
    folder.mkdir()
    rows = ["path,caption"]
    for index in range(number):
        video = torch.zeros(3, 20, 16, 16, dtype=torch.uint8)
        for frame in range(20):
            row = (frame if index % 2 else -frame) % 12
            video[:, frame, row : row + 4, 4:8] = 200
        write_video(folder / f"{index}.mp4", video, 8.0)
        rows.append(f"{index}.mp4,a square {'falls' if index % 2 else 'rises'}")
    folder.with_suffix(".csv").write_text("\n".join(rows) + "\n")


def programs(kind, text, folder):
    """What follows `python` on the command line to run a block; patterns of files stand for those that are there."""
    if kind == "python":
        yield ["-c", text]
    for words in commands(text) if kind == "sh" else ():
        files = {
            word: sorted(str(file.relative_to(folder)) for file in folder.glob(word)) for word in words if "*" in word
        }
        yield ["-c", BRIEF, *itertools.chain.from_iterable(files.get(word, [word]) for word in words)]


@pytest.mark.slow
@pytest.mark.parametrize("page", WITH_BLOCKS, ids=name_of)
def test_blocks_run(page, python, tmp_path):
    """One after the other, in a folder with a reader's clips, captions and images."""
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    write_clips(tmp_path / "clips")
    for number, name in enumerate(("a.mp4", "b.mp4")):
        (tmp_path / name).symlink_to(f"clips/{number}.mp4")
    Image.new("RGB", (40, 32), "red").save(tmp_path / "first.png")
    Image.new("L", (16, 16), "white").save(tmp_path / "mask.png")
    (tmp_path / "captions.txt").write_text("a red circle moves left\na blue square moves up\n")
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    for mark, _, kind, text in BLOCK.findall(page.read_text()):
        for program in () if mark else programs(kind, text, tmp_path):
            done = python.run(*program, cwd=tmp_path, env=environment)
            assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
