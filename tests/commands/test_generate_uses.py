"""`generate` from clips: each option calls a method of the pipeline, and its videos are reproduced from records."""

import json
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from cmd_lightning.cli import main
from cmd_lightning.commands.uses import Use, next_to, use_of
from cmd_lightning.errors import InputError
from cmd_lightning.video_io import read_video

STEPS = ("--steps", "content=2,motion=3", "--guidance", "content=2,motion=1.5")
CALL = {
    "num_inference_steps": {"content": 2, "motion": 3},
    "guidance_scale": {"content": 2.0, "motion": 1.5},
    "output_type": "pt",
}


@pytest.fixture
def model(tiny_pipeline, tmp_path):
    """A small model of classes in a folder, with two clips and a mask next to it."""
    pipeline = tiny_pipeline("label")
    pipeline.save_pretrained(tmp_path / "model")
    for seed, name in enumerate("ab"):
        (tmp_path / name).mkdir()
        pixels = np.random.default_rng(seed).integers(0, 255, (5, 8, 12, 3), np.uint8)
        for i, frame in enumerate(pixels):
            Image.fromarray(frame).save(tmp_path / name / f"{i}.png")
    mask = np.zeros((8, 12), np.uint8)
    mask[2:6, 2:8] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    return pipeline


USES = {
    "content": ("--content-from A", lambda p, a, b, **call: p.transfer(content_from=a, **call)),
    "motion": ("--motion-from A", lambda p, a, b, **call: p.transfer(motion_from=a, **call)),
    "transfer": (
        "--content-from A --motion-from B --strength 0.4",
        lambda p, a, b, **call: p.transfer(a, b, strength=0.4, **call),
    ),
    "change": ("--video A --strength 0.5", lambda p, a, b, **call: p(video=a, strength=0.5, **call)),
    "edit": ("--video A --mask MASK", lambda p, a, b, **call: p.edit(a, a.parent / "mask.png", **call)),
    "continue": ("--video A --frames 8 --overlap 2", lambda p, a, b, **call: p.extend(a, 8, overlap=2, **call)),
    "long": ("--frames 8 --overlap 2", lambda p, a, b, **call: p.extend(p(**call).frames, 8, overlap=2, **call)),
}


@pytest.mark.parametrize("name", USES)
def test_an_option_is_a_method_of_the_pipeline(model, name, tmp_path):
    words, method = USES[name]
    places = {"A": str(tmp_path / "a"), "B": str(tmp_path / "b"), "MASK": str(tmp_path / "mask.png")}
    given = [places.get(word, word) for word in words.split()]
    arguments = ["--class", "1", "--seed", "5", *STEPS, "--format", "png", "--out", str(tmp_path / "out")]
    assert main(["generate", str(tmp_path / "model"), *given, *arguments]) == 0
    file = next((tmp_path / "out").glob("*.json"))
    video = read_video(file.with_suffix(""))
    expected = method(model, tmp_path / "a", tmp_path / "b", class_labels=[1], seeds=[5], **CALL).frames[0]
    assert video.shape == expected.transpose(0, 1).shape
    assert (video - expected.transpose(0, 1) * 255).abs().max() <= 1.5
    assert main(["generate", "--again", str(file), "--format", "png", "--out", str(tmp_path / "again")]) == 0
    assert torch.equal(read_video(tmp_path / "again" / f"{file.stem}-again"), video)


def test_videos_between_two_clips(model, tmp_path):
    given = ["--video", str(tmp_path / "a"), str(tmp_path / "b"), "--interpolate", "content", "--num", "3"]
    arguments = ["--class", "1", "2", "--seed", "5", *STEPS, "--format", "png", "--out", str(tmp_path / "out")]
    assert main(["generate", str(tmp_path / "model"), *given, *arguments]) == 0
    names = ["a-class-1-5-0", "a-class-2-5-100", "a-class-2-5-50"]
    files = sorted((tmp_path / "out").glob("*.json"))
    assert [file.stem for file in files] == names
    clips = tmp_path / "a", tmp_path / "b"
    expected = model.interpolate(*clips, class_labels=(1, 2), weights=(0, 0.5, 1), seed=5, **CALL).frames
    for name, i in zip(names, (0, 2, 1), strict=True):
        found = read_video(tmp_path / "out" / name)
        assert (found - expected[i].transpose(0, 1) * 255).abs().max() <= 1.5
    assert json.loads(files[2].read_text())["use"]["weight"] == 0.5


def test_clips_and_classes_go_together_and_notices_are_recorded(model, tmp_path, capsys):
    """A clip for each class; a clip of another size is reported on standard error and in the record."""
    for i in range(7):
        (tmp_path / "wide").mkdir(exist_ok=True)
        Image.new("RGB", (90, 20)).save(tmp_path / "wide" / f"{i}.png")
    given = ["--content-from", str(tmp_path / "a"), str(tmp_path / "wide"), "--class", "1", "2", *STEPS]
    assert main(["generate", str(tmp_path / "model"), *given, "--out", str(tmp_path / "out")]) == 0
    record = json.loads((tmp_path / "out" / "wide-class-2-0.json").read_text())
    assert record["use"]["content_from"] == str(tmp_path / "wide")
    notes = ["clip of 90x20 pixels: resized and cropped to the model's 12x8", "clip of 7 frames: the first 5 are used"]
    assert record["warnings"] == notes
    lines = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
    assert lines == [f"warning: {note}" for note in notes]


def test_a_record_that_was_sent_with_its_files(tmp_path):
    (tmp_path / "clip.mp4").write_bytes(b"")
    use = Use(video="elsewhere/clip.mp4", frames=20)
    assert next_to(use, tmp_path) == Use(video=str(tmp_path / "clip.mp4"), frames=20)
    assert use_of(vars(use)) == use
    with pytest.raises(InputError, match=r"clip\.mp4: the record needs it; put it there"):
        next_to(use, tmp_path / "other")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--video nowhere.mp4", "--video nowhere.mp4: there is no such file; check the path"),
        ("--video A --content-from B", "--video and --content-from: give one of the two"),
        ("--image MASK --video A", "--image and --video: give one of the two"),
        ("--mask MASK", "--mask: no clip is given; give --video"),
        ("--video A --mask MASK --frames 9", "--mask and --frames: give one of the two"),
        ("--video A --interpolate motion --num 3", "--interpolate motion: give --video two clips, start and end"),
        ("--video A B --interpolate motion", "--num 1: give at least 2 with --interpolate"),
        ("--video A B --interpolate motion --num 3 --class 1 2 3", "--interpolate motion: 3 prompts; give one"),
        ("--overlap 2", "--overlap 2: it is for longer videos; give --frames"),
        ("--strength 0.5", "--strength: nothing is given to change"),
        ("--video A --strength 2", "--strength 2.0: give a number from 0"),
        ("--content-from A B A --motion-from A B", "--motion-from: 2 files for 3 videos"),
        ("--content-from A B A --class 1 2", "--prompt: 2 for 3 clips; give one, or one for each"),
        ("--video A --frames 4", "--frames 4: the clip has 5 already; give more"),
        ("--motion-from MODEL", "model: the folder holds no .png or .tif frames"),
    ],
)
def test_wrong_options_are_one_line(model, words, message, tmp_path, capsys):
    places = {"A": "a", "B": "b", "MASK": "mask.png", "MODEL": "model"}
    given = [str(tmp_path / places[word]) if word in places else word for word in words.split()]
    given += [] if "--class" in words else ["--class", "1"]
    with warnings.catch_warnings(action="ignore"):
        assert main(["generate", str(tmp_path / "model"), *given, *STEPS, "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert message in error
