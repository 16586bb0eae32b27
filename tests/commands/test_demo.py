"""The demo at a tiny scale, through the command line: its files, its pages, and every number on them."""

import csv
import hashlib
import json
import math
import re
import shutil
import tarfile
from html.parser import HTMLParser

import pytest
import torch
import yaml

from cmd_lightning import zoo
from cmd_lightning.cli import main
from cmd_lightning.commands import demo
from cmd_lightning.commands.demo import PROMPTS, STEPS, merged, write_config
from cmd_lightning.commands.demo_page import asked
from cmd_lightning.shapes.drawing import draw_scene
from cmd_lightning.shapes.reader import Reading, ShapesReader
from cmd_lightning.video_io import read_video

CLIPS, TRAINING_STEPS = 4, 2
NOTHING = "\N{EN DASH}"
RIGHT = 5
"""Samples that the reader of these tests reads as asked, the first ones."""


class Page(HTMLParser):
    """Elements, tables (rows of cells), text, and figures' captions."""

    def __init__(self, source):
        super().__init__()
        self.source, self.elements, self.tables, self.text, self._open = source, [], [], "", []
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
            self.text += " ".join(data.split()) + "\n"


class Reader:
    """Stands for the trained reader: right about the first prompts, and sees nothing in the others."""

    def read(self, video):
        assert video.shape == (len(PROMPTS), 3, 16, 32, 32) and video.dtype == torch.uint8
        return [asked(prompt) if i < RIGHT else Reading("none", "pink", "none") for i, prompt in enumerate(PROMPTS)]


def run(folder, *options, weights=None):
    """The demo in a new folder, with few clips and sampling steps."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder.parent)
        patch.setattr(demo, "EVALUATED", CLIPS)
        patch.setattr(demo, "SAMPLING_STEPS", 2)
        patch.setattr(ShapesReader, "from_pretrained", Reader)
        if weights:
            patch.setattr(zoo, "WEIGHTS", weights)
        assert main(["demo", "--out", str(folder), *options]) == 0
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]  # nothing lies anywhere else
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with a demo that trained."""
    return run(tmp_path_factory.mktemp("demo") / "a demo", "--fit", "--steps", str(TRAINING_STEPS))


@pytest.fixture(scope="module")
def shown(made, tmp_path_factory):
    """A folder with a demo of a shipped model, for which the trained one stands."""
    weights = tmp_path_factory.mktemp("weights")
    shutil.copytree(made / "model", weights / "shapes32")
    return run(tmp_path_factory.mktemp("demo") / "shown", "--seed", "3", weights=weights)


@pytest.fixture(scope="module")
def page(made):
    return Page((made / "report.html").read_text())


@pytest.fixture(scope="module")
def shown_page(shown):
    return Page((shown / "report.html").read_text())


def log(folder, name):
    """The last value of everything in a stage's log, and of the steps that have a validation loss."""
    values, steps = {}, []
    with (folder / "logs" / name / "metrics.csv").open() as file:
        for row in csv.DictReader(file):
            values |= {key: float(value) for key, value in row.items() if value}
            if row.get("val/loss"):
                steps.append(int(row["step"]) + 1)
    return values, steps


@pytest.mark.parametrize("which", ["page", "shown_page"])
def test_page_is_self_contained(which, request):
    page = request.getfixturevalue(which)
    addresses = [
        value
        for _, attributes in page.elements
        for name, value in attributes.items()
        if name in ("src", "href", "srcset", "data", "action", "poster")
    ]
    assert addresses and all(address.startswith("data:image/gif;base64,") for address in addresses)
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in page.elements}
    assert not re.search(r"url\(|@import", page.source)


@pytest.mark.parametrize(("which", "seed"), [("made", 0), ("shown", 3)])
def test_page_shows_clips_and_samples_with_captions_and_seed(which, seed, request):
    folder = request.getfixturevalue(which)
    page = Page((folder / "report.html").read_text())
    captions = []
    for level in ("plain", "mixed"):
        with tarfile.open(folder / "shards" / level / "test" / "000000.tar") as shard:
            names = [name for name in shard.getnames() if name.endswith(".txt")]
            captions += [shard.extractfile(name).read().decode().strip() for name in names]
    assert len(captions) == CLIPS
    assert len([tag for tag, _ in page.elements if tag == "img"]) == CLIPS + len(PROMPTS)
    assert all(f"{prompt} (seed {seed})" in page.text for prompt in PROMPTS)
    assert all(f"{caption}; reconstruction " in page.text for caption in captions)
    for words in ("original, content frame, reconstruction", "sampled motion"):
        assert words in page.text


def test_page_says_what_the_reader_sees(shown_page, shown):
    assert "a large yellow square moves right (seed 3); read as: yellow square, right" in shown_page.text
    assert "a pink circle moves down right (seed 3); read as: pink none, none" in shown_page.text
    assert f"{RIGHT} of {len(PROMPTS)} are read as asked; a guess is right in 1 of 256" in shown_page.text
    assert json.loads((shown / "scores.json").read_text())["scores"]["samples"] == {"read_as_asked": RIGHT}


def test_page_says_which_captions_were_held_out(shown_page):
    """Against scenes as training draws them: a prompt that is said to be held out is never among them."""
    held_out = {prompt for prompt in PROMPTS if re.search(rf"{prompt}[^\n]*held out of training", shown_page.text)}
    scenes = [draw_scene(0, index, combinations="seen") for index in range(4000)]
    drawn = {scene.caption for scene in scenes}
    without_size = {caption.replace("large ", "").replace("small ", "") for caption in drawn}
    assert held_out == {prompt for prompt in PROMPTS if prompt.replace("large ", "") not in without_size}


def test_what_is_asked_is_what_a_scene_of_this_caption_shows():
    scenes = [draw_scene(0, index) for index in range(50)]
    assert all(asked(scene.caption) == Reading.of(scene) for scene in scenes)


@pytest.mark.parametrize(
    ("which", "said", "unsaid"),
    [
        ("page", ("just trained from scratch", "rough by design", "trained in ten minutes"), ("as it ships",)),
        ("shown_page", ("shapes32, which ships", "as it ships"), ("rough by design", "EMA", "from scratch")),
    ],
)
def test_page_says_which_of_the_two_it_shows(which, said, unsaid, request):
    text = request.getfixturevalue(which).text
    assert all(words in text for words in said)
    assert not any(words in text for words in unsaid)


def test_page_scores_each_clip(page, made):
    """The mean frame's score of a clip, computed anew from its file."""
    with tarfile.open(made / "shards" / "mixed" / "test" / "000000.tar") as shard:
        name = sorted(name for name in shard.getnames() if name.endswith(".mp4"))[0]
        video = read_video(shard.extractfile(name).read()).double()
    error = (video - video.mean(1, keepdim=True)).square().mean()
    assert f"mean frame {10 * math.log10(255**2 / error):.2f} dB" in page.text


def test_page_has_the_curve_of_every_stage_that_was_trained(page, shown_page):
    labels = [attributes["aria-label"] for tag, attributes in page.elements if tag == "svg"]
    assert [label.split(":")[0] for label in labels] == ["Autoencoder", "Content model", "Motion model"]
    assert all("training, validation" in label for label in labels)
    assert len([tag for tag, _ in page.elements if tag == "circle"]) >= 3
    assert not [tag for tag, _ in shown_page.elements if tag == "svg"]


def rows_of(test):
    return [
        [f"{test['test/psnr']:.4g}", f"{test['test/ssim']:.4g}"],
        [f"{test['test/psnr_of_mean_frame']:.4g}", NOTHING],
        [f"{test['test/psnr_of_best_frame']:.4g}", NOTHING],
    ]


def test_every_score_is_that_of_the_logs(page, made, shown_page, shown):
    stages, scores, losses, _ = page.tables
    assert [row[1] for row in stages[1:]] == [str(log(made, stage)[1][-1]) for stage in STEPS]
    test, _ = log(made, "cmd")
    assert [row[1:] for row in scores[1:]] == rows_of(test)
    for row, stage in zip(losses[1:], ("content", "motion"), strict=True):
        values, _ = log(made, stage)
        names = [f"loss_at_{title.removeprefix('timestep ')}" for title in losses[0][1:-1]]
        assert len(names) == 4
        assert row[1:] == [f"{values['val/' + name]:.4g}" for name in [*names, "loss"]]
    recorded = json.loads((made / "scores.json").read_text())["scores"]
    assert recorded["reconstruction"]["psnr"] == test["test/psnr"]

    scores, _ = shown_page.tables
    assert [row[1:] for row in scores[1:]] == rows_of(log(shown, "cmd")[0])


def test_every_score_has_its_protocol(page, made, shown_page):
    assert page.text.count("Protocol:") == 2
    assert shown_page.text.count("Protocol:") == 1
    for words in (f"all {CLIPS} clips of the test split", f"all {CLIPS} clips of the validation split", "EMA"):
        assert words in page.text
    assert f"after {TRAINING_STEPS} steps" in page.text
    for shown in (page, shown_page):
        named = dict(shown.tables[-1][1:])
        assert set(named) == {"data", "seeds", "weights", "versions", "commit", "hardware", "system", "date"}
        assert "2 plain and 2 mixed clips to test" in named["data"] and "torch 2" in named["versions"]
        weights = (made / "model" / "motion_model" / "diffusion_pytorch_model.safetensors").read_bytes()
        assert f"motion_model {hashlib.sha256(weights).hexdigest()[:12]}" in named["weights"]


@pytest.mark.parametrize(
    ("which", "expected"),
    [("made", ["fit"] * 3 + ["export"]), ("shown", [])],
)
def test_page_lists_the_commands(which, expected, request):
    folder = request.getfixturevalue(which)
    commands = [item["command"] for item in json.loads((folder / "demo.json").read_text())["commands"]]
    verbs = [command.split()[1] for command in commands]
    assert verbs == [*expected, "shards", "shards", "test", "generate"]
    text = Page((folder / "report.html").read_text()).text
    assert all(command in text for command in commands)


def test_a_demo_is_replaced_and_nothing_else(tmp_path, capsys):
    (tmp_path / "thesis.tex").write_text("years of work")
    assert main(["demo", "--out", str(tmp_path)]) == 2
    assert "--out" in capsys.readouterr().err
    assert (tmp_path / "thesis.tex").exists()

    (tmp_path / "demo.json").write_text("{}")
    demo.clear(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("option", ["--steps", "--seconds"])
def test_numbers_out_of_range_are_told(option, tmp_path, capsys):
    assert main(["demo", "--out", str(tmp_path / "new"), "--fit", option, "0"]) == 2
    assert f"{option} 0" in capsys.readouterr().err
    assert main(["demo", "--out", str(tmp_path / "new"), option, "9"]) == 2
    assert f"{option} 9: nothing is trained; give --fit too" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_config_keeps_what_the_demo_does_not_change(tmp_path):
    folder = tmp_path / "with 'quotes' and \\"
    folder.mkdir()
    path = write_config("content", folder, {"trainer": {"max_steps": 3}})
    config = yaml.safe_load(path.read_text())
    assert config["trainer"]["max_steps"] == 3 and config["trainer"]["gradient_clip_val"] == 1.0
    assert config["model"]["init_args"]["autoencoder"] == f"{folder}/autoencoder/last.ckpt"


def test_settings_are_merged_but_not_into_another_class():
    config = {"data": {"class_path": "A", "init_args": {"a": 1, "b": 2}}, "trainer": {"x": {"y": 1, "z": 2}}}
    changes = {"data": {"class_path": "B", "init_args": {"c": 3}}, "trainer": {"x": {"y": 5}}}
    expected = {"data": {"class_path": "B", "init_args": {"c": 3}}, "trainer": {"x": {"y": 5, "z": 2}}}
    assert merged(config, changes) == expected
    assert merged({"data": {"class_path": "A", "init_args": {"a": 1}}}, {"data": {"init_args": {"b": 2}}}) == {
        "data": {"class_path": "A", "init_args": {"a": 1, "b": 2}}
    }
