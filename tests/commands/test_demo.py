"""The demo at a tiny scale, through the command line: its files, its page, and every number on it."""

import csv
import json
import math
import re
import tarfile
from html.parser import HTMLParser

import pytest
import yaml

from cmd_lightning.cli import main
from cmd_lightning.commands.demo import PROMPTS, STEPS, write_config
from cmd_lightning.commands.demo_page import SHOWN
from cmd_lightning.video_io import read_video

CLIPS, TRAINING_STEPS = 8, 2
NOTHING = "\N{EN DASH}"


class Page(HTMLParser):
    """Elements, tables (rows of cells), text, and figures' captions."""

    def __init__(self, source):
        super().__init__()
        self.elements, self.tables, self.text, self._open = [], [], "", []
        self.feed(source)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self._open.append(tag)
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag):
        while self._open.pop() != tag:
            pass

    def handle_data(self, data):
        if self._open and self._open[-1] in ("td", "th"):
            self.tables[-1][-1][-1] += data
        if "style" not in self._open:
            self.text += data + "\n"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with a demo, and what it printed."""
    folder = tmp_path_factory.mktemp("demo") / "a demo"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder.parent)
        code = main(["demo", "--out", str(folder), "--steps", str(TRAINING_STEPS), "--clips", str(CLIPS)])
    assert code == 0
    assert [path.name for path in folder.parent.iterdir()] == ["a demo"]  # nothing lies anywhere else
    return folder


@pytest.fixture(scope="module")
def page(made):
    return Page((made / "report.html").read_text())


def log(folder, name):
    """The last value of everything in a stage's log, and of the steps that have a validation loss."""
    values, steps = {}, []
    with (folder / "logs" / name / "metrics.csv").open() as file:
        for row in csv.DictReader(file):
            values |= {key: float(value) for key, value in row.items() if value}
            if row.get("val/loss"):
                steps.append(int(row["step"]) + 1)
    return values, steps


def test_page_is_self_contained(page, made):
    addresses = [
        value
        for _, attributes in page.elements
        for name, value in attributes.items()
        if name in ("src", "href", "srcset", "data", "action", "poster")
    ]
    assert addresses and all(address.startswith("data:image/gif;base64,") for address in addresses)
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in page.elements}
    assert not re.search(r"url\(|@import", (made / "report.html").read_text())


def test_page_shows_clips_and_samples_with_captions_and_seed(page, made):
    with tarfile.open(made / "shards" / "test" / "000000.tar") as shard:
        texts = [shard.extractfile(name).read().decode().strip() for name in shard.getnames() if name.endswith(".txt")]
    captions = texts[:SHOWN]
    assert len([tag for tag, _ in page.elements if tag == "img"]) == len(captions) + len(PROMPTS)
    assert all(f"{prompt} (seed 0)" in page.text for prompt in PROMPTS)
    assert all(f"{caption}; reconstruction " in page.text for caption in captions)
    for words in ("original, content frame, reconstruction", "sampled motion", "rough by design"):
        assert words in page.text


def test_page_scores_each_clip(page, made):
    """The mean frame's score of a clip, computed anew from its file."""
    with tarfile.open(made / "shards" / "test" / "000000.tar") as shard:
        name = sorted(name for name in shard.getnames() if name.endswith(".mp4"))[0]
        video = read_video(shard.extractfile(name).read()).double()
    error = (video - video.mean(1, keepdim=True)).square().mean()
    assert f"mean frame {10 * math.log10(255**2 / error):.2f} dB" in page.text


def test_page_has_every_stage_curve(page):
    labels = [attributes["aria-label"] for tag, attributes in page.elements if tag == "svg"]
    assert [label.split(":")[0] for label in labels] == ["Autoencoder", "Content model", "Motion model"]
    assert all("training, validation" in label for label in labels)
    assert len([tag for tag, _ in page.elements if tag == "circle"]) >= 3


def test_every_score_is_that_of_the_logs(page, made):
    stages, scores, losses, _ = page.tables
    assert [row[1] for row in stages[1:]] == [str(log(made, stage)[1][-1]) for stage in STEPS]
    test, _ = log(made, "cmd")
    assert [row[1:] for row in scores[1:]] == [
        [f"{test['test/psnr']:.4g}", f"{test['test/ssim']:.4g}"],
        [f"{test['test/psnr_of_mean_frame']:.4g}", NOTHING],
        [f"{test['test/psnr_of_best_frame']:.4g}", NOTHING],
    ]
    for row, stage in zip(losses[1:], ("content", "motion"), strict=True):
        values, _ = log(made, stage)
        names = [f"loss_at_{title.removeprefix('timestep ')}" for title in losses[0][1:-1]]
        assert len(names) == 4
        assert row[1:] == [f"{values['val/' + name]:.4g}" for name in [*names, "loss"]]
    recorded = json.loads((made / "scores.json").read_text())["scores"]
    assert recorded["reconstruction"]["psnr"] == test["test/psnr"]


def test_every_score_has_its_protocol(page):
    assert page.text.count("Protocol:") == 2
    for words in (f"all {CLIPS} clips of the test split", f"all {CLIPS} clips of the validation split", "EMA"):
        assert words in page.text
    assert f"after {TRAINING_STEPS} steps" in page.text
    named = dict(page.tables[-1][1:])
    assert set(named) == {"data", "seeds", "versions", "commit", "hardware", "system", "date"}
    assert f"{CLIPS} clips to train on" in named["data"] and "torch 2" in named["versions"]


def test_page_lists_the_commands(page, made):
    commands = [item["command"] for item in json.loads((made / "demo.json").read_text())["commands"]]
    verbs = [command.split()[1] for command in commands]
    assert verbs == ["shards"] * 3 + ["fit"] * 3 + ["test", "export", "generate"]
    assert all(command in page.text for command in commands)


def test_a_demo_is_replaced_and_nothing_else(tmp_path, capsys):
    from cmd_lightning.commands.demo import clear

    (tmp_path / "thesis.tex").write_text("years of work")
    assert main(["demo", "--out", str(tmp_path)]) == 2
    assert "--out" in capsys.readouterr().err
    assert (tmp_path / "thesis.tex").exists()

    (tmp_path / "demo.json").write_text("{}")
    clear(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("option", ["--clips", "--steps", "--seconds"])
def test_numbers_out_of_range_are_told(option, tmp_path, capsys):
    assert main(["demo", "--out", str(tmp_path / "new"), option, "0"]) == 2
    assert f"{option} 0" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_config_keeps_what_the_demo_does_not_change(tmp_path):
    folder = tmp_path / "with 'quotes' and \\"
    folder.mkdir()
    path = write_config("content", folder, {"trainer": {"max_steps": 3}})
    config = yaml.safe_load(path.read_text())
    assert config["trainer"]["max_steps"] == 3 and config["trainer"]["gradient_clip_val"] == 1.0
    assert config["model"]["init_args"]["autoencoder"] == f"{folder}/autoencoder/last.ckpt"
