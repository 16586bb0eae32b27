"""The demo at a tiny scale, through the command line: its files, its pages, and every number on them."""

import hashlib
import json
import math
import re
import shutil
import tarfile

import pytest
import torch
import yaml
from pages import Page

from cmd_lightning import zoo
from cmd_lightning.cli import main
from cmd_lightning.commands import demo
from cmd_lightning.commands.demo import PROMPTS
from cmd_lightning.commands.demo_page import asked
from cmd_lightning.commands.derived_configs import merged, write_config
from cmd_lightning.shapes.drawing import draw_scene
from cmd_lightning.shapes.reader import Reading, ShapesReader
from cmd_lightning.video_io import read_video

CLIPS = 4
NOTHING = "\N{EN DASH}"
RIGHT = 5
"""Samples that the reader of these tests reads as asked, the first ones."""


class Reader:
    """Replaces the trained reader: correct for the first prompts, and sees nothing in the others."""

    def read(self, video):
        assert video.shape == (len(PROMPTS), 3, 16, 32, 32) and video.dtype == torch.uint8
        return [asked(prompt) if i < RIGHT else Reading("none", "pink", "none") for i, prompt in enumerate(PROMPTS)]


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """A folder with a demo of the shipped model, with few clips and sampling steps."""
    weights = tmp_path_factory.mktemp("weights")
    for path in zoo.WEIGHTS.iterdir():
        (shutil.copytree if path.is_dir() else shutil.copy)(path, weights / path.name)
    index = weights / "shapes32" / "model_index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | {"steps": {"content": 2, "motion": 2}}))
    folder = tmp_path_factory.mktemp("demo") / "a demo"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder.parent)
        patch.setattr(demo, "EVALUATED", CLIPS)
        patch.setattr(ShapesReader, "from_pretrained", Reader)
        patch.setattr(zoo, "WEIGHTS", weights)
        assert main(["demo", "--out", str(folder), "--seed", "3"]) == 0
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]  # nothing is written anywhere else
    return folder


@pytest.fixture(scope="module")
def page(shown):
    return Page((shown / "report.html").read_text())


@pytest.fixture(scope="module")
def test_scores(shown):
    """The scores of the test, by name."""
    return {entry["metric"]: entry["value"] for entry in json.loads((shown / "cmd" / "test.json").read_text())}


def test_page_is_self_contained(page):
    addresses = [
        value
        for _, attributes in page.elements
        for name, value in attributes.items()
        if name in ("src", "href", "srcset", "data", "action", "poster")
    ]
    assert addresses and all(address.startswith("data:image/gif;base64,") for address in addresses)
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in page.elements}
    assert not re.search(r"url\(|@import", page.source)


def test_page_shows_clips_and_samples_with_captions_and_seed(page, shown):
    captions = []
    for level in ("plain", "mixed"):
        with tarfile.open(shown / "shards" / level / "test" / "000000.tar") as shard:
            names = [name for name in shard.getnames() if name.endswith(".txt")]
            captions += [shard.extractfile(name).read().decode().strip() for name in names]
    assert len(captions) == CLIPS
    assert len([tag for tag, _ in page.elements if tag == "img"]) == CLIPS + len(PROMPTS)
    assert all(f"{prompt} (seed 3)" in page.text for prompt in PROMPTS)
    assert all(f"{caption}; reconstruction " in page.text for caption in captions)
    for words in ("original, content frame, reconstruction", "sampled motion"):
        assert words in page.text


def test_page_says_what_the_reader_sees(page, shown):
    assert "a large yellow square moves right (seed 3); read as: yellow square, right" in page.text
    assert "a pink circle moves down right (seed 3); read as: pink none, none" in page.text
    correct = f"{RIGHT} of {len(PROMPTS)} samples are classified as their caption says"
    assert f"{correct}; a random guess is correct in 1 of 256" in page.text
    assert json.loads((shown / "scores.json").read_text())["scores"]["samples"] == {"read_as_asked": RIGHT}


def test_page_says_which_captions_were_held_out(page):
    """Against scenes as training draws them: a prompt that is said to be held out is never among them."""
    held_out = {prompt for prompt in PROMPTS if re.search(rf"{prompt}[^\n]*held out of training", page.text)}
    scenes = [draw_scene(0, index, combinations="seen") for index in range(4000)]
    drawn = {scene.caption for scene in scenes}
    without_size = {caption.replace("large ", "").replace("small ", "") for caption in drawn}
    assert held_out == {prompt for prompt in PROMPTS if prompt.replace("large ", "") not in without_size}


def test_what_is_asked_is_what_a_scene_of_this_caption_shows():
    scenes = [draw_scene(0, index) for index in range(50)]
    assert all(asked(scene.caption) == Reading.of(scene) for scene in scenes)


def test_page_scores_each_clip(page, shown):
    """The mean frame's score of a clip, computed again from its file."""
    with tarfile.open(shown / "shards" / "mixed" / "test" / "000000.tar") as shard:
        name = sorted(name for name in shard.getnames() if name.endswith(".mp4"))[0]
        video = read_video(shard.extractfile(name).read()).double()
    error = (video - video.mean(1, keepdim=True)).square().mean()
    assert f"mean frame {10 * math.log10(255**2 / error):.2f} dB" in page.text


def test_every_score_is_that_of_the_test(page, shown, test_scores):
    scores, _ = page.tables
    assert [row[1:] for row in scores[1:]] == [
        [f"{test_scores['psnr']:.4g}", f"{test_scores['ssim']:.4g}"],
        [f"{test_scores['psnr_of_mean_frame']:.4g}", NOTHING],
        [f"{test_scores['psnr_of_best_frame']:.4g}", NOTHING],
    ]
    assert json.loads((shown / "scores.json").read_text())["scores"]["reconstruction"] == test_scores


def test_every_score_has_its_protocol(page, shown):
    assert page.text.count("Protocol:") == 1 and f"all {CLIPS} clips of the test split" in page.text
    named = dict(page.tables[-1][1:])
    assert set(named) == {"data", "seeds", "weights", "versions", "commit", "hardware", "system", "date"}
    assert "2 plain and 2 mixed clips to test" in named["data"] and "torch 2" in named["versions"]
    weights = (zoo.WEIGHTS / "shapes32" / "motion_model" / "diffusion_pytorch_model.safetensors").read_bytes()
    assert f"motion_model {hashlib.sha256(weights).hexdigest()[:12]}" in named["weights"]


def test_page_lists_the_commands(page, shown):
    commands = [item["command"] for item in json.loads((shown / "demo.json").read_text())["commands"]]
    assert [command.split()[1] for command in commands] == ["shards", "shards", "test", "generate"]
    assert all(command in page.text for command in commands)


def test_a_demo_is_replaced_and_nothing_else(tmp_path, capsys):
    (tmp_path / "thesis.tex").write_text("years of work")
    assert main(["demo", "--out", str(tmp_path)]) == 2
    assert "--out" in capsys.readouterr().err
    assert (tmp_path / "thesis.tex").exists()

    for name in ("demo.json", "scores.json"):
        (tmp_path / name).write_text("{}")
    (tmp_path / "samples").mkdir()
    demo.clear(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_what_a_demo_leaves_is_what_the_next_one_removes(shown):
    assert {path.name for path in shown.iterdir()} == set(demo.WRITTEN)


def test_config_keeps_what_the_demo_does_not_change(tmp_path):
    folder = tmp_path / "with 'quotes' and \\"
    folder.mkdir()
    path = write_config(folder, "shapes32", "content", ["changed"], {"trainer": {"max_steps": 3}})
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
