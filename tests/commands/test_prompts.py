"""Prompts: how files are read, and that unused parts of a prompt are reported and recorded."""

import json
import warnings

import pytest
import torch
from small_models import TEXT
from stable_diffusion_folders import text_of

from cmd_lightning import zoo
from cmd_lightning.cli import main
from cmd_lightning.commands.files import read_prompts
from cmd_lightning.conditioning import OpenCLIPTextEncoder, PhraseEncoder, remarks
from cmd_lightning.errors import InputError, InputWarning
from cmd_lightning.pretrained_text import StableDiffusionText
from cmd_lightning.shapes.drawing import draw_scene

RED, BLUE = "a red circle moves left", "a blue square moves right"
FILES = {
    "byte order mark": (b"\xef\xbb\xbf" + RED.encode() + b"\n" + BLUE.encode(), [RED, BLUE]),
    "two files joined, each with its mark": (f"\ufeff{RED}\n\ufeff{BLUE}\n".encode(), [RED, BLUE]),
    "line separator": ("a red\u2028circle\nb\n".encode(), ["a red\u2028circle", "b"]),
    "paragraph separator": ("a\u2029b\nc".encode(), ["a\u2029b", "c"]),
    "next line": ("a\x85b\nc".encode(), ["a\x85b", "c"]),
    "vertical tab, form feed": (b"a\x0bb\nc\x0cd\n", ["a\x0bb", "c\x0cd"]),
    "file, group, record separators": (b"a\x1cb\x1dc\x1ed\ne", ["a\x1cb\x1dc\x1ed", "e"]),
    "Windows": (b"a red circle\r\n\r\nb\r\n", ["a red circle", "b"]),
    "old Macintosh": (b"a\rb\r", ["a", "b"]),
    "blank lines and spaces": ("\n  \n\ta \n\u3000\nb\n\n".encode(), ["a", "b"]),
    "Unicode": ("ein roter Kreis zieht nach links, ñ 日本\n".encode(), ["ein roter Kreis zieht nach links, ñ 日本"]),
}


@pytest.mark.parametrize("name", FILES)
def test_a_caption_per_line(tmp_path, name):
    content, captions = FILES[name]
    (tmp_path / "prompts.txt").write_bytes(content)
    assert read_prompts(str(tmp_path / "prompts.txt")) == captions


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (RED.encode("utf-16"), "it is not UTF-8 text"),
        ("café".encode("latin-1"), "it is not UTF-8 text"),
        (b"\xef\xbb\xbf\r\n", "the file has no caption"),
    ],
)
def test_files_without_captions(tmp_path, content, expected):
    (tmp_path / "prompts.txt").write_bytes(content)
    with pytest.raises(InputError, match=rf"--prompts .*prompts\.txt: {expected}"):
        read_prompts(str(tmp_path / "prompts.txt"))


def test_both_commands_read_alike(tiny_pipeline, tmp_path):
    """A mark and a separator: two captions for two videos, and their records."""
    (tmp_path / "prompts.txt").write_text(f"\ufeff{RED}\u2028and up\r\n{BLUE}\n", encoding="utf-8")
    tiny_pipeline("caption").save_pretrained(tmp_path / "model")
    words = [
        "--prompts",
        str(tmp_path / "prompts.txt"),
        "--steps",
        "1",
        "--guidance",
        "1",
        "--out",
        str(tmp_path / "out"),
    ]
    assert main(["generate", str(tmp_path / "model"), *words]) == 0
    records = [json.loads(path.read_text()) for path in (tmp_path / "out").glob("*.json")]
    assert {record["condition"] for record in records} == {f"{RED}\u2028and up", BLUE}
    torch.save(torch.rand(2, 3, 16, 32, 32), tmp_path / "fake.pt")
    words = ["--fake", str(tmp_path / "fake.pt"), "--metrics", "clipsim:shapes", "--workers", "0"]
    assert main(["evaluate", *words, "--prompts", str(tmp_path / "prompts.txt")]) == 0


@pytest.fixture
def trained(wake):
    """A text encoder of 12 tokens that has seen the words of `RED`, a comma, "up" and "zoom" in training."""
    encoder = OpenCLIPTextEncoder(TEXT)
    seen = [encoder.tokenizer.encode(word) for word in (*RED.split(), ",", "up", "zooms", "<end_of_text>")]
    with torch.no_grad():
        encoder.tower.token_embedding.weight[[token for tokens in seen for token in tokens]] = 1
    return encoder


@pytest.mark.parametrize(
    ("caption", "cut"),
    [
        (RED, ""),
        ("red " * 10, ""),
        ("red " * 11, "red"),
        (f"{RED}, {RED}", "left"),
        (f"{RED}, a red circle moves up, a red circle", "up , a red circle"),
        ("", ""),
    ],
)
def test_what_is_cut(trained, caption, cut):
    """Every word, and a comma, is one token; ten fit between start and end."""
    assert trained.cut(caption) == cut


@pytest.mark.parametrize(
    ("caption", "unseen"),
    [
        (RED, []),
        ("A RED circle, up", []),
        ("a purple circle moves left", ["purple"]),
        ("a submarine dives; it dives", ["submarine", "dives", ";", "it"]),
        ("a red Kreis", ["kreis"]),
        ("日本", ["日本"]),
        ("circle zooms, zoom", ["zoom"]),
    ],
)
def test_words_that_training_never_showed(trained, caption, unseen):
    assert trained.unseen(caption) == unseen


def test_words_are_learned_by_training(trained):
    """A step of an optimiser with weight decay changes the vectors of the words in the batch, and no others."""
    encoder = OpenCLIPTextEncoder(TEXT)
    assert encoder.unseen(RED) == RED.split()
    optimizer = torch.optim.AdamW(encoder.parameters(), 1e-3)
    for _ in range(2):
        optimizer.zero_grad()
        encoder([RED, "a red circle"]).pooled.square().sum().backward()
        optimizer.step()
    assert encoder.unseen(f"{RED} and right") == ["and", "right"]
    assert encoder.half().unseen(f"{RED} and right") == ["and", "right"]


def test_stable_diffusions_context(tmp_path):
    encoder = StableDiffusionText.of(*text_of("1.5", tmp_path / "text"))
    assert encoder.context_length == 12
    assert encoder.cut("a red circle moves left a red circle moves left") == ""
    assert encoder.cut("a red circle moves left a red circle moves left a blue square") == "a blue square"
    assert encoder.unseen("a submarine") == []  # its training is not known


def test_the_pipeline_warns_and_returns_it(tiny_pipeline, trained):
    few = {"num_inference_steps": 1, "guidance_scale": 1.0}
    pipeline = tiny_pipeline("caption", text_encoder=trained)
    long, unknown = f"{RED}, {RED}, {RED}", "a purple circle"
    with pytest.warns(InputWarning) as caught:
        output = pipeline([RED, long, unknown, " "], num_videos_per_prompt=2, seeds=range(8), **few)
    cut = f"prompt '{long[:57]}...': longer than the 12 tokens that the model reads; cut: 'left , {RED}'"
    unseen = "prompt 'a purple circle': words that the model never saw in training: purple"
    empty = "the prompt is empty: generation is unconditional"
    assert [str(warning.message) for warning in caught] == [cut, unseen, empty]  # each once
    assert output.warnings == [[], [], [cut], [cut], [unseen], [unseen], [empty], [empty]]
    with warnings.catch_warnings(action="error"):
        assert pipeline(RED, seeds=[0], **few).warnings == [[]]
    pipeline.register_modules(text_encoder=None, unet=None)
    with warnings.catch_warnings(action="error"):  # the content model, which lacks the word, is not run
        pipeline("a purple circle", image=torch.zeros(1, 3, 8, 12), seeds=[0], **few)


def test_a_shipped_model_knows_its_world():
    """No caption of the procedural world gives a warning, however long; other words are reported, as in the README."""
    folder = zoo.WEIGHTS / "shapes32"
    encoders = [PhraseEncoder.from_pretrained(folder / name) for name in ("text_encoder", "motion_text_encoder")]
    levels, motions = ("plain", "mixed"), ("still", "slow", "middle", "fast", "extreme")
    scenes = [draw_scene(1, i, level=level, motion=motion) for level in levels for motion in motions for i in range(60)]
    captions = [scene.caption for scene in scenes]
    assert any("bar" in caption for caption in captions) and any("camera" in caption for caption in captions)
    assert [note for caption in captions for note in remarks(encoders, caption)] == []
    assert remarks(encoders, ", ".join(captions)) == []
    star = "a yellow star moves down"
    assert remarks(encoders, star) == [f"prompt '{star}': words that the model never saw in training: star"]
    [remark] = remarks(encoders, "a red cirkle moves left, a purple square")
    assert remark.endswith("never saw in training: cirkle (did you mean circle?), purple")


def test_a_shipped_model_with_a_text_tower(tmp_path, capsys):
    """Two long prompts that differ at their end alone, and a word from outside its world."""
    same = ", ".join([RED] + [BLUE] * 12)
    ends = ("a green triangle moves up", "a yellow star moves down")
    (tmp_path / "prompts.txt").write_text("".join(f"{same}, {end}\n" for end in ends))
    words = ["--prompts", str(tmp_path / "prompts.txt"), "--steps", "1", "--out", str(tmp_path / "out")]
    assert main(["generate", "shapes32paper", *words]) == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]
    records = [json.loads(path.read_text()) for path in (tmp_path / "out").glob("*.json")]
    for end, star in zip(ends, (False, True), strict=True):
        (record,) = [record for record in records if record["condition"].endswith(end)]
        assert "longer than the 48 tokens that the model reads; cut: " in record["warnings"][0]
        assert record["warnings"][0].endswith(f", {end}'")
        assert len(record["warnings"]) == 1 + star
        assert not star or record["warnings"][1].endswith("never saw in training: star")
        assert {f"warning: {text}" for text in record["warnings"]} <= set(lines)
    assert len(lines) == 3
