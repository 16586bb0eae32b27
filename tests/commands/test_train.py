"""`train` at a tiny scale, on the command line: its files, its page, and later calls."""

import csv
import json
import math
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from pages import Page

from cmd_lightning.cli import main
from cmd_lightning.commands import stages, train, train_configs, train_page
from cmd_lightning.commands.train_configs import facts_of
from cmd_lightning.errors import InputError
from cmd_lightning.packing.pack import pack_clips
from cmd_lightning.video_encoding import write_video

CAPTIONS = ("a square rises", "a square falls")
STEPS = 2


def write_clips(folder, number=10, frames=20, fps=8.0, size=16):
    """Clips of a bright square that rises or falls, in turns."""
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(number):
        video = torch.zeros(3, frames, size, size, dtype=torch.uint8)
        for frame in range(frames):
            row = (frame + index if index % 2 else -frame - index) % (size - 4)
            video[:, frame, row : row + 4, 4:8] = 200
        write_video(folder / f"{index}.mp4", video, fps)
    return folder


def write_table(path, number=10, **columns):
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", *columns])
        writer.writerows([f"{index}.mp4", *(column[index] for column in columns.values())] for index in range(number))
    return str(path)


class InProcess:
    """Runs the command of a stage at once, in this process, and looks like a process that has ended."""

    commands: list = []  # noqa: RUF012

    def __init__(self, command, stdout, **_):
        self.commands.append(command)
        self.returncode = main(command[len(stages.COMMAND) :])

    def poll(self):
        return self.returncode

    def wait(self):
        return self.returncode


@pytest.fixture(scope="module")
def in_process():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stages, "subprocess", SimpleNamespace(Popen=InProcess, STDOUT=subprocess.STDOUT))
        patch.setattr(train_configs, "SAMPLING_STEPS", 2)
        yield


@pytest.fixture(scope="module")
def captioned(tmp_path_factory, in_process):
    """A folder with clips, their table, and a run of two steps per stage on them."""
    folder = tmp_path_factory.mktemp("captioned")
    write_clips(folder / "clips")
    table = write_table(folder / "clips.csv", caption=[CAPTIONS[index % 2] for index in range(10)])
    arguments = ["train", str(folder / "clips"), "--captions", table, "--out", str(folder / "run"), "--size", "16"]
    InProcess.commands = []
    assert main([*arguments, "--steps", str(STEPS)]) == 0
    return folder, arguments


def test_every_part_of_a_run_is_in_its_folder(captioned):
    folder, _ = captioned
    run = folder / "run"
    assert sorted(path.name for path in folder.iterdir()) == ["clips", "clips.csv", "run"]
    for name in ("report.html", "scores.json", "train.json", "model/model_index.json", "shards/train/000000.tar"):
        assert (run / name).is_file(), name
    for stage in ("autoencoder", "content", "motion"):
        assert stages.trained(run / stage / "last.ckpt").steps == STEPS
        assert (run / f"{stage}.yaml").read_text().startswith(f"# {stage}: ")
    videos = sorted(path.name for path in (run / "samples").glob("*.mp4"))
    assert len(videos) == train.SHOWN and all(name.startswith("a-square-") for name in videos)


def test_the_commands_are_those_that_ran(captioned):
    folder, _ = captioned
    commands = [
        entry["command"] for entry in json.loads((folder / "run" / "train.json").read_text())["facts"]["commands"]
    ]
    verbs = [command.split()[1] for command in commands]
    assert verbs == ["shards", "fit", "fit", "fit", "export", "test", "generate"]
    assert "--hold-out 0.1" in commands[0]
    text = Page((folder / "run" / "report.html").read_text()).text
    assert all(command in text for command in commands)


def test_page_shows_scores_samples_and_clips(captioned):
    run = captioned[0] / "run"
    page = Page((run / "report.html").read_text())
    fits, scores, _ = page.tables
    assert [row[1] for row in fits[1:]] == [str(STEPS)] * 3
    tests = {entry["metric"]: entry["value"] for entry in json.loads((run / "cmd" / "test.json").read_text())}
    assert [row[1] for row in scores[1:]] == [
        f"{tests[name]:.4g}" for name in ("psnr", "psnr_of_mean_frame", "psnr_of_best_frame")
    ]
    images = [attributes["src"] for tag, attributes in page.elements if tag == "img"]
    assert len(images) == train.SHOWN + 1 and all(image.startswith("data:image/gif;base64,") for image in images)
    assert any(f"{caption} (seed 0)" in page.text for caption in CAPTIONS)
    labels = [attributes["aria-label"] for tag, attributes in page.elements if tag == "svg"]
    assert [label.split(":")[0] for label in labels] == ["Autoencoder", "Content model", "Motion model"]
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in page.elements}


def test_the_same_line_continues(captioned, capsys, monkeypatch):
    folder, arguments = captioned
    monkeypatch.setattr(train, "sample", lambda run: None)
    monkeypatch.setattr(train_page, "write_page", lambda run: "")
    packed = (folder / "run" / "shards" / "train" / "000000.tar").stat().st_mtime_ns
    config = folder / "run" / "content.yaml"
    config.write_text(config.read_text().replace("gradient_clip_val: 1.0", "gradient_clip_val: 0.5"))
    before = len(InProcess.commands)
    assert main([*arguments, "--steps", str(STEPS)]) == 0
    assert len(InProcess.commands) == before  # all stages are trained
    printed = capsys.readouterr().out
    assert "resuming the run" in printed
    assert f"all stages are already trained for --steps {STEPS}; give more" in printed
    assert main([*arguments, "--steps", str(STEPS + 1)]) == 0
    ran = [command[command.index("-c") + 1].rpartition("/")[2] for command in InProcess.commands[before:]]
    assert ran == ["content.yaml", "motion.yaml"]  # another autoencoder would make them useless
    assert stages.trained(folder / "run" / "motion" / "last.ckpt").steps == STEPS + 1
    assert yaml.safe_load(config.read_text())["trainer"]["gradient_clip_val"] == 0.5
    assert (folder / "run" / "shards" / "train" / "000000.tar").stat().st_mtime_ns == packed


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (["--size", "24"], "--size 24: the run in {run} was started with 16; give that, or another --out"),
        (["--seed", "1"], "--seed 1: the run in {run} was started with 0"),
        (["--minutes", "3", "--steps", "4"], "--minutes 3 and --steps 4: give one of the two"),
        (["--minutes", "0"], "--minutes 0: give a positive number"),
        (["--minutes", "nan"], "--minutes nan: give a positive number"),
        (["--steps", "0"], "--steps 0: must be at least 1"),
        (["--minutes", "soon"], "--minutes soon: give a number"),
        (["--steps", "2.5"], "--steps 2.5: give a whole number"),
        (["--size", "30"], "--size 30: give a multiple of 8 from 16 to 512"),
        (["--size", "100000"], "--size 100000: give a multiple of 8 from 16 to 512"),
        (["--seed", "-1"], "--seed -1: give a whole number from 0"),
        (["--captions", "none.csv"], "--captions none.csv: no such file"),
    ],
)
def test_wrong_options_change_nothing(captioned, capsys, options, error):
    folder, arguments = captioned
    before = (folder / "run" / "train.json").read_text()
    assert main([*arguments, *options]) == 2
    assert error.format(run=folder / "run") in capsys.readouterr().err
    assert (folder / "run" / "train.json").read_text() == before


def test_a_folder_with_something_else_is_left_alone(captioned, tmp_path, capsys):
    (tmp_path / "thesis.tex").write_text("years of work")
    arguments = captioned[1]
    assert main([*arguments[:4], "--out", str(tmp_path)]) == 2
    assert "--out" in capsys.readouterr().err and (tmp_path / "thesis.tex").exists()
    assert main(["train", str(tmp_path / "none"), "--out", str(tmp_path / "run")]) == 2
    assert "CLIPS" in capsys.readouterr().err and not (tmp_path / "run").exists()
    for record in ("{", "[1]", '{"settings": {}, "facts": {}}', '{"settings": 3}'):
        (tmp_path / "train.json").write_text(record)
        assert main([*arguments[:4], "--out", str(tmp_path)]) == 2
        assert "its train.json is damaged" in capsys.readouterr().err
        assert (tmp_path / "train.json").read_text() == record
    for inside in ("", "run", "a/run"):
        assert main([*arguments[:2], "--out", str(Path(arguments[1], inside))]) == 2
        assert "it is in the folder of the clips" in capsys.readouterr().err


def test_a_mistake_can_be_corrected_until_the_clips_are_packed(tmp_path, capsys, monkeypatch):
    write_clips(tmp_path / "clips", 4)
    fits = []
    monkeypatch.setattr(train, "fit", lambda run, *_: fits.append(run.settings))
    monkeypatch.setattr(train, "sample", lambda run: None)
    monkeypatch.setattr(train_page, "write_page", lambda run: "")
    arguments = ["train", f"{tmp_path}/clips", "--out", f"{tmp_path}/run", "--steps", "1"]
    empty = write_table(tmp_path / "empty.csv", 4, caption=[""] * 4)
    good = write_table(tmp_path / "good.csv", 4, caption=["up, then down"] * 4)
    assert main([*arguments, "--captions", empty]) == 2
    assert "no clip has a caption or a label" in capsys.readouterr().err
    assert main([*arguments, "--captions", write_table(tmp_path / "one.csv", 1, caption=["up"])]) == 2
    (message,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("cmd-lightning: ")]
    assert "at least 2 usable clips are needed, there are 1" in message
    assert main([*arguments, "--captions", good, "--size", "16"]) == 0
    slash = ["train", f"{tmp_path}/clips/", *arguments[2:]]  # as shells complete it
    assert main([*slash, "--captions", good, "--size", "16"]) == 0
    assert [(run["captions"], run["size"]) for run in fits] == [(good, 16)] * 2
    assert len(json.loads((tmp_path / "run" / "train.json").read_text())["facts"]["commands"]) == 1
    shards = ["train", f"{tmp_path}/run/shards", "--captions", good, "--out", f"{tmp_path}/other"]
    assert main(shards) == 2
    assert "are shards with their own captions; leave it out" in capsys.readouterr().err


@pytest.mark.parametrize(("stop", "code"), [(KeyboardInterrupt(), 130), (SystemExit(143), 143), (SystemExit(2), 2)])
@pytest.mark.parametrize("phase", ["pack", "fit", "sample"])
def test_a_stopped_run_prints_how_to_resume(tmp_path, capsys, monkeypatch, phase, stop, code):
    from cmd_lightning.commands import calls

    write_clips(tmp_path / "clips", 1)

    def ends(*_):
        raise stop

    for name in ("pack", "fit", "sample"):
        monkeypatch.setattr(train, name, ends if name == phase else lambda *_: None)
    monkeypatch.setattr(train_configs, "write_configs", lambda run: None)
    assert main(["train", f"{tmp_path}/clips", "--out", f"{tmp_path}/run"]) == code
    assert ("run: stopped; run the same command to resume" in capsys.readouterr().err) == (code != 2)
    monkeypatch.setattr(calls, "main", lambda words: code)
    with pytest.raises(SystemExit) as error:  # as a command in this process, that has printed why
        calls.call("export")
    assert error.value.code == code


def test_a_stopped_run_tells_how_far_it_is(captioned):
    assert train.so_far(train.Run(captioned[0] / "run", {}, {})).startswith(" (autoencoder at step 2, content at step")


def test_settings_count_once_clips_are_packed(captioned, tmp_path, capsys, monkeypatch):
    folder, arguments = captioned
    monkeypatch.setattr(train, "fit", lambda *_: (_ for _ in ()).throw(InputError("reached")))
    (tmp_path / "wrong.csv").write_text("a,b\n1,2\n")
    words = ["train", str(folder / "clips"), "--out", str(tmp_path / "run"), "--size", "16", "--steps", "2"]
    assert main([*words, "--captions", str(tmp_path / "wrong.csv")]) == 2
    assert "no column 'path'" in capsys.readouterr().err
    assert main([*words, "--captions", arguments[3]]) == 2
    assert capsys.readouterr().err.endswith("reached\n")
    assert main([*words, "--captions", str(tmp_path / "wrong.csv")]) == 2
    assert f"was started with {arguments[3]}" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"epochs": 3}', '{"settings": 1, "facts": {}}'])
def test_a_record_of_something_else_is_left_alone(captioned, tmp_path, capsys, text):
    (tmp_path / "train.json").write_text(text)
    assert main([*captioned[1][:4], "--out", str(tmp_path), "--steps", "1"]) == 2
    assert "train.json is damaged" in capsys.readouterr().err
    assert (tmp_path / "train.json").read_text() == text


def facts(folder, captions=None, classes=False, **options):
    """What `train` finds out about the clips in a folder."""
    pack_clips(folder / "clips", folder / "shards", captions, hold_out=0.2, **options)
    splits = {split: folder / "shards" / split for split in ("train", "test")}
    return facts_of(splits, {"clips": "clips", "captions": captions, "classes": classes})


def test_class_folders_are_learned_as_classes(tmp_path):
    for name in ("b", "a"):
        write_clips(tmp_path / "clips" / name, 5)
    found = facts(tmp_path)
    assert (found["condition"], found["classes"], found["fps"]) == ("classes", ["a", "b"], 8.0)


def test_a_table_with_both_is_learned_as_captions_unless_classes_are_asked_for(tmp_path):
    write_clips(tmp_path / "clips")
    table = write_table(tmp_path / "t.csv", caption=["one thing"] * 10, label=["x", "y"] * 5)
    assert facts(tmp_path, table)["condition"] == "captions"
    shutil.rmtree(tmp_path / "shards")
    found = facts(tmp_path, table, classes=True)
    assert (found["condition"], found["classes"]) == ("classes", ["x", "y"])


def test_clips_without_captions_or_classes_are_learned_all_the_same(tmp_path):
    write_clips(tmp_path / "clips")
    assert facts(tmp_path)["condition"] == "nothing"


@pytest.mark.parametrize(
    ("frames", "fps", "expected"),
    [
        (20, 8.0, 8.0),  # every frame
        (100, 25.0, 8.0),  # two seconds of each
        (25, 25.0, 16.0),  # one second, all of it
        (40, 4.0, 4.0),  # a slow clip is not repeated
    ],
)
def test_clips_are_read_at_a_rate_that_fits(tmp_path, frames, fps, expected):
    write_clips(tmp_path / "clips", 6, frames, fps)
    assert math.isclose(facts(tmp_path)["fps"], expected)


def test_clips_that_are_too_short_or_have_no_class_are_rejected(tmp_path):
    write_clips(tmp_path / "clips", 6, frames=9)
    with pytest.raises(ValueError, match="more than a tenth have fewer than 16 frames"):
        facts(tmp_path)
    write_clips(tmp_path / "more" / "clips", 10)
    table = write_table(tmp_path / "t.csv", label=["x", ""] * 5)
    with pytest.raises(ValueError, match="clips have no class"):
        facts(tmp_path / "more", table, classes=True)


def test_short_clips_are_counted_and_those_held_out_must_not_all_be(tmp_path, capsys):
    write_clips(tmp_path / "clips", 30)
    write_clips(tmp_path / "more", 1, frames=15)
    shutil.copy(tmp_path / "more" / "0.mp4", tmp_path / "clips" / "short.mp4")
    facts(tmp_path)
    assert "1 of 31 clips are shorter than 16 frames at 8 per second: they are not used" in capsys.readouterr().err
    pack_clips(tmp_path / "more", tmp_path / "shards" / "test", split="short")
    splits = {"train": tmp_path / "shards" / "train", "test": tmp_path / "shards" / "test" / "short"}
    with pytest.raises(ValueError, match=r"the held-out clips \(1\) are shorter than 16 frames"):
        facts_of(splits, {"clips": "clips", "captions": None, "classes": False})


def test_prompts_of_your_own_are_kept(tmp_path, monkeypatch):
    calls = []
    run = train.Run(tmp_path, {"seed": 0}, {"commands": [], "condition": "captions", "prompts": ["a", "b"]})
    monkeypatch.setattr(train.Run, "call", lambda run, *words: calls.append(words))
    train.sample(run)
    assert (tmp_path / "prompts.txt").read_text() == "a\nb\n" and calls[-1][4:6] == ("--num", 4)
    (tmp_path / "prompts.txt").write_text("mine\n")
    train.sample(run)
    assert (tmp_path / "prompts.txt").read_text() == "mine\n" and calls[-1][4:6] == ("--num", 8)
