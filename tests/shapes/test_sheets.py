import copy
import hashlib
import json
from dataclasses import replace
from importlib.resources import files

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from cmd_lightning.errors import InputError
from cmd_lightning.shapes.drawing import draw_scene
from cmd_lightning.shapes.painting import render
from cmd_lightning.shapes.scenes import COLOURS, DIRECTIONS, SHAPES
from cmd_lightning.shapes.sheets import SheetSimilarity, contact_sheet
from cmd_lightning.zoo import WEIGHTS

CONFIG = {
    "embed_dim": 8,
    "vision_cfg": {"image_size": 16, "patch_size": 8, "width": 16, "layers": 1, "head_width": 8},
    "text_cfg": {"context_length": 12, "width": 16, "heads": 2, "layers": 1},
}


def test_contact_sheet_shows_the_frames_in_rows():
    video = torch.arange(31.0).view(1, 1, 31, 1, 1).expand(1, 3, 31, 64, 64) / 31
    sheet = contact_sheet(video)
    assert sheet.shape == (1, 3, 128, 128)
    for place in range(16):
        row, column = divmod(place, 4)
        cell = sheet[:, :, 32 * row : 32 * row + 32, 32 * column : 32 * column + 32]
        torch.testing.assert_close(cell, torch.full_like(cell, 2 * place / 31))
    with pytest.raises(InputError, match="15 frames"):
        contact_sheet(video[:, :, :15])


def test_sheets_keep_each_clip_apart():
    clips = torch.stack([render(draw_scene(0, index), 16, 32) for index in range(3)]).float() / 255
    sheets = contact_sheet(clips)
    for clip, sheet in zip(clips, sheets, strict=True):
        torch.testing.assert_close(sheet[:, 32:64, 96:], clip[:, 7])


def test_weights_are_checked(tmp_path):
    with pytest.raises(InputError, match=r"none\.safetensors"):
        SheetSimilarity.from_pretrained(tmp_path / "none.safetensors")
    other = tmp_path / "other.safetensors"
    save_file({"weight": torch.zeros(2)}, other)
    with pytest.raises(InputError, match="other"):
        SheetSimilarity.from_pretrained(other)
    save_file({"weight": torch.zeros(2)}, other, {"config": json.dumps(CONFIG)})
    with pytest.raises(InputError, match="other"):
        SheetSimilarity.from_pretrained(other)


@pytest.fixture(scope="module")
def shipped():
    return SheetSimilarity.from_pretrained()


def plain_clips(count):
    scenes = [draw_scene(31337, index) for index in range(count)]
    return scenes, torch.stack([render(scene, 16, 64) for scene in scenes])


@pytest.mark.parametrize(
    ("name", "names", "least"), [("colour", COLOURS, 0.95), ("shape", SHAPES, 0.6), ("direction", DIRECTIONS, 0.6)]
)
def test_shipped_weights_prefer_the_true_word(shipped, name, names, least):
    """Of a caption and the same with one word wrong; a guess is right half of the time."""
    scenes, video = plain_clips(96)
    order = list(names)
    wrong = []
    for position, scene in enumerate(scenes):
        thing = scene.things[0]
        step = 1 + position % (len(order) - 1)
        other = order[(order.index(getattr(thing, name)) + step) % len(order)]
        wrong.append(replace(thing, **{name: other}).phrase)
    true = shipped.similarities(video, [scene.caption for scene in scenes])
    assert (true > shipped.similarities(video, wrong)).float().mean() > least


def test_shipped_weights_tell_what_they_are(shipped):
    with safe_open(files("cmd_lightning.zoo") / "weights" / "shapes_clip.safetensors", "pt") as file:
        record = json.loads(file.metadata()["record"])
    assert record["scores"]["caption"] > 50 * record["scores"]["chance"]
    assert {"clips", "steps", "minutes", "date"} <= record.keys()
    assert shipped.name == "shapes_clip"
    assert shipped.origin["sha256"] == hashlib.sha256((WEIGHTS / SheetSimilarity.WEIGHTS).read_bytes()).hexdigest()


def test_value_within_a_module_that_is_cast(shipped):
    video = torch.rand(3, 3, 16, 24, 20)
    values = []
    for cast in (False, True):
        metric = copy.deepcopy(shipped)
        module = nn.Sequential(metric, nn.Linear(1, 1)).train()
        module = module.to(torch.bfloat16) if cast else module
        for clip in video:
            metric.update(clip[None], ["a red circle moves left"])
            module = module.to(torch.bfloat16) if cast else module
        assert metric.total.dtype == torch.float64 and not metric.model.training
        values.append(metric.compute())
    assert values[0] == values[1]
    assert (module[1].weight.dtype, values[0].dtype) == (torch.bfloat16, torch.float64)
