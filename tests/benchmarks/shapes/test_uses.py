"""The image of uses of the two latents, and its seams."""

import numpy as np
import torch
import yaml
from PIL import Image

from benchmarks.cells import read
from benchmarks.shapes.uses import CARDS, RESULTS, draw, rows


def test_the_image_shows_every_second_frame_below_its_name(tmp_path):
    videos = {"first": torch.rand(3, 4, 8, 10), "second": torch.rand(3, 6, 8, 10)}
    draw(videos, tmp_path / "uses.png")
    image = np.asarray(Image.open(tmp_path / "uses.png"))
    assert image.shape == (2 * (14 + 16), 3 * 20, 3)
    for top, video in zip((14, 14 + 16 + 14), videos.values(), strict=True):
        for place in range(video.shape[1] // 2):
            shown = image[top : top + 16 : 2, 20 * place : 20 * (place + 1) : 2]
            expected = video[:, 2 * place].permute(1, 2, 0).mul(255).round()
            assert np.array_equal(shown, expected.numpy().astype(np.uint8))


def test_each_use_has_a_row(tiny_pipeline):
    """Of a small model with random weights; longer videos are longer, and none is empty."""
    pipeline = tiny_pipeline("caption")
    pipeline.register_to_config(steps={"content": 1, "motion": 1})
    videos = rows(pipeline)
    assert len(videos) == 9 + 2 * 5
    assert {video.shape[1] for name, video in videos.items() if name != "A, continued"} == {5}
    assert videos["A, continued"].shape == (3, 10, 8, 12)
    assert all(video.std() > 0 for video in videos.values())


def test_the_card_shows_seams_of_the_weights_that_ship():
    card = yaml.safe_load((CARDS / "shapes32.yaml").read_text())
    assert read(RESULTS / "shapes32_uses.json")["settings"]["weights"] == card["weights"]
    assert card["uses"]
