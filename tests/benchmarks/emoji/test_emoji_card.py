"""The images and the page of emoji64's card, with a small included model."""

import json

import pytest
import torch
import yaml

from benchmarks.emoji.card import anatomy, animated, drawings, page, samples
from benchmarks.emoji.naming import Originals
from benchmarks.emoji.quality import Quality
from cmd_lightning import zoo
from cmd_lightning.pipeline import CMDPipeline

RED = "a red circle moves left"


@pytest.fixture(scope="module")
def pipeline():
    pipeline = CMDPipeline.from_pretrained(zoo.WEIGHTS / "shapes32")
    pipeline.register_to_config(steps={"content": 2, "motion": 2})
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def test_samples_are_in_a_grid(pipeline):
    grid = samples(pipeline, [RED] * 4, columns=2)
    assert grid.shape == (3, 16, 64, 64) and grid.dtype == torch.uint8
    [second] = pipeline([RED], seeds=[1], output_type="pt").frames
    right = grid[:, :, :32, 32:].float() / 255
    assert torch.allclose(right, second.transpose(0, 1), atol=0.02)  # sample i has seed i, row by row


@pytest.mark.filterwarnings("ignore::cmd_lightning.errors.InputWarning")
def test_images_are_animated_from_their_first_frame(pipeline):
    made = pipeline([RED], seeds=[3], output_type="pt").frames.transpose(1, 2)
    videos = animated(pipeline, Originals([RED], (255 * made).round().to(torch.uint8)))
    assert list(videos) == [f"held-out image: {RED}", *drawings(32)]
    assert all(video.shape == (3, 16, 32, 32) for video in videos.values())
    assert (videos[f"held-out image: {RED}"][:, 0] - made[0, :, 0]).abs().mean() < 0.05


def test_latents_are_shown_at_the_size_of_the_video(pipeline):
    rows = anatomy(pipeline, RED)
    assert [value.shape[1] for value in rows.values()] == [1, 16, 16]
    assert all(value.shape[2:] == (32, 32) and 0 <= value.min() <= value.max() <= 1 for value in rows.values())


def test_the_page_has_the_figures():
    card = yaml.safe_load((zoo.WEIGHTS.parent / "cards" / "shapes32.yaml").read_text())
    named = {"num": 200, "named": 0.9, "named_interval": [0.85, 0.94], "chance": 0.001, "named_and_tone": 0.5}
    moves = {"energy": 3.21, "correlation at 1": 0.9, "correlation at 4": 0.2, "correlation at 8": -0.1}
    near = {"sample to its original": 1, "two samples of a caption": 2, "original to the nearest other one": 3}
    cells = {
        "reconstruction": {"num": 171, "psnr": 29.5, "gain": 7.0, "gain_standard_error": 0.2},
        **dict.fromkeys(("training captions", "held-out combinations", "names of originals"), named),
        "motion": {"generated": moves, "originals": moves},
        "neighbours": near,
    }
    assert cells.keys() == Quality(pipeline=FakePipeline(), settings=None, shards=None).cells().keys()
    about = dict.fromkeys(("versions", "hardware", "date", "commit"), "x")
    result = json.loads(json.dumps({"rows": [{"cell": name, **row} for name, row in cells.items()], **about}))
    text = page(card, result, "All rights.\n")
    assert "| 29.50 | better still image: 22.50 (gain 7.00 ± 0.20) |" in text
    assert "(200 videos) | 90.0% (85.0% to 94.0%) | chance: 0.10% |" in text
    assert "| generated | 3.21 | 0.90 | 0.20 | -0.10 |" in text and "```text\nAll rights.\n```" in text


class FakePipeline:
    """What `Quality` asks of a pipeline before it measures."""

    def set_progress_bar_config(self, disable):
        pass
