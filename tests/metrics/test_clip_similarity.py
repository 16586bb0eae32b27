import json
from dataclasses import replace
from importlib.resources import files

import numpy as np
import open_clip
import pytest
import torch
from open_clip.model import CLIP
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from cmd_lightning.data.draw import draw_scene
from cmd_lightning.data.scenes import COLOURS, DIRECTIONS, SHAPES
from cmd_lightning.data.shapes import render
from cmd_lightning.errors import InputError
from cmd_lightning.metrics.clip_similarity import CLIPSimilarity, SheetSimilarity, contact_sheet

CONFIG = {
    "embed_dim": 8,
    "vision_cfg": {"image_size": 16, "patch_size": 8, "width": 16, "layers": 1, "head_width": 8},
    "text_cfg": {"context_length": 12, "width": 16, "heads": 2, "layers": 1},
}
CAPTIONS = ["a red circle moves left", "a blue square moves right"]


def tiny(config=CONFIG):
    model = CLIP(**config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return model.eval(), open_clip.SimpleTokenizer(context_length=12)


def by_hand(model, tokenizer, video, captions, mean, std):
    """One frame at a time, resized by Pillow, with the cosine spelt out."""
    values = []
    for clip, caption in zip(video, captions, strict=True):
        text = model.encode_text(tokenizer([caption]))[0].double().detach().numpy()
        cosines = []
        for frame in clip.transpose(0, 1).numpy():
            resized = [np.asarray(Image.fromarray(c, "F").resize((16, 16), Image.Resampling.BICUBIC)) for c in frame]
            picture = (np.stack(resized).clip(0, 1) - np.reshape(mean, (3, 1, 1))) / np.reshape(std, (3, 1, 1))
            image = model.encode_image(torch.tensor(picture[None], dtype=torch.float32))[0].double().detach().numpy()
            cosines.append(image @ text / np.sqrt(image @ image * (text @ text)))
        values.append(np.mean(cosines))
    return values


@pytest.mark.filterwarnings("ignore:'mode' parameter is deprecated")
@pytest.mark.parametrize("own_range", [False, True])
def test_similarity_is_the_mean_cosine_of_the_frames(own_range):
    model, tokenizer = tiny()
    mean, std = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # OpenAI's
    if own_range:
        mean, std = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
        model.visual.image_mean, model.visual.image_std = mean, std
    video = torch.rand(2, 3, 5, 24, 40)
    expected = by_hand(model, tokenizer, video, CAPTIONS, mean, std)
    metric = CLIPSimilarity(model, tokenizer)
    np.testing.assert_allclose(metric.similarities(video, CAPTIONS), expected, atol=2e-5)
    metric.update(video[:1], CAPTIONS[:1])
    metric.update(video[1:], CAPTIONS[1:])
    assert metric.compute().item() == pytest.approx(np.mean(expected), abs=2e-5)
    metric.reset()
    metric.update((video[:1] * 255).round().byte(), CAPTIONS[:1])
    assert metric.compute().item() == pytest.approx(expected[0], abs=2e-3)


class Brightness(nn.Module):
    """Looks along +1 for bright frames, along -1 for dark ones; every caption is +1."""

    def __init__(self):
        super().__init__()
        self.visual = nn.Identity()
        self.visual.image_size, self.visual.image_mean, self.visual.image_std = 4, [0.5] * 3, [0.5] * 3
        self.dropout = nn.Dropout(0.9)

    def encode_image(self, pictures):
        return self.dropout(pictures.mean((1, 2, 3))[:, None] * 3)

    def encode_text(self, tokens):
        return torch.ones(len(tokens), 1)


def test_videos_count_equally_whatever_their_length_and_cosines_keep_their_sign():
    metric = CLIPSimilarity(Brightness(), lambda captions: torch.zeros(len(captions), 1))
    nn.ModuleList([metric]).train()  # as a part of a module that trains
    bright, dark = torch.ones(1, 3, 2, 4, 4), torch.zeros(1, 3, 10, 4, 4)
    metric.update(bright, ["x"])
    assert metric.compute() == 1
    metric.update(dark, ["x"])
    assert metric.compute() == 0
    metric.update(dark, ["x"])
    assert metric.compute().item() == pytest.approx(-1 / 3)


def test_wrong_input_is_refused():
    model, tokenizer = tiny()
    metric = CLIPSimilarity(model, tokenizer)
    with pytest.raises(InputError, match="one for each of 2"):
        metric.update(torch.rand(2, 3, 2, 16, 16), CAPTIONS[:1])
    with pytest.raises(InputError, match="captions"):
        metric.update(torch.rand(3, 3, 2, 16, 16), "cat")
    with pytest.raises(InputError, match="0, 1"):
        metric.update(torch.rand(2, 3, 2, 16, 16) - 1, CAPTIONS)
    with pytest.raises(RuntimeError, match="no video"):
        metric.compute()
    with pytest.raises(InputError, match="tokenizer"):
        CLIPSimilarity(model)
    with pytest.raises(InputError, match="list_models"):
        CLIPSimilarity("ViT-nothing")


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
