"""The measurements of emoji64, on videos with known answers."""

import math

import pytest
import torch

from benchmarks.emoji import naming
from benchmarks.emoji.naming import Emoji, Namer, Originals
from benchmarks.emoji.quality import Quality, Settings, interval, moves


class Colours(torch.nn.Module):
    """In place of an image network: the mean colour of a video."""

    def forward(self, video):
        return torch.nn.functional.normalize(video.float().mean((2, 3, 4)), dim=1)


@pytest.fixture
def originals():
    video = torch.zeros(4, 3, 16, 8, 8, dtype=torch.uint8)
    for row, colour in enumerate([(200, 0, 0), (0, 200, 0), (0, 0, 200), (150, 150, 0)]):
        video[row] = torch.tensor(colour, dtype=torch.uint8).view(3, 1, 1, 1)
    return Originals(["fox", "frog", "man cook", "man cook, dark skin tone"], video)


@pytest.fixture
def quality(originals, monkeypatch):
    monkeypatch.setattr(naming, "Features", Colours)
    quality = Quality.__new__(Quality)
    quality.settings = Settings()
    quality.__dict__["namer"] = Namer(originals)
    return quality


def test_captions_are_a_name_and_a_tone():
    assert Emoji.of("rabbit") == Emoji("rabbit", "")
    assert Emoji.of("man cook, medium-dark skin tone") == Emoji("man cook", "medium-dark skin tone")


def test_videos_are_named_after_the_nearest_original(quality, originals):
    noisy = (originals.video.int() + 20).clamp(0, 255).to(torch.uint8)
    assert quality.namer.name(noisy.flip(0)) == [Emoji.of(caption) for caption in reversed(originals.captions)]
    assert quality.namer.chance == pytest.approx(1 / 3)  # three names


def test_names_and_tones_are_counted_apart(quality, originals):
    asked = ["fox", "fox", "man cook", "man cook"]  # what is shown: fox, frog, man cook, man cook with a tone
    found = quality.named_right(originals.video, asked)
    assert found["named"] == 0.75 and found["named_and_tone"] == 0.5 and found["wrong"] == [["fox", "frog"]]


@pytest.mark.parametrize(("right", "number"), [(0, 10), (7, 10), (200, 200), (180, 200)])
def test_intervals(right, number):
    """Wilson's bounds are the shares from which the measured one is 1.96 standard deviations away."""
    share = right / number
    low, high = interval(right, number)
    assert low - 1e-9 <= share <= high + 1e-9
    for bound in (low, high):
        if 0 < bound < 1:
            assert abs(share - bound) == pytest.approx(1.959964 * math.sqrt(bound * (1 - bound) / number), abs=1e-6)
    assert interval(7, 10) == pytest.approx([0.3968, 0.8922], abs=1e-4)


def test_motion_of_a_wave():
    """A pixel that goes as a cosine of 16 frames: its correlation over time is cos, over the frames that overlap."""
    values = 128 + 100 * torch.cos(2 * math.pi * torch.arange(16) / 16)
    video = values.round().to(torch.uint8).view(1, 1, 16, 1, 1).expand(2, 3, 16, 4, 4)
    found = moves(video)
    wave = torch.cos(2 * math.pi * torch.arange(16) / 16)
    for lag in (1, 4, 8):
        expected = (wave[lag:] * wave[:-lag]).mean() / wave.square().mean()
        assert found[f"correlation at {lag}"] == pytest.approx(float(expected), abs=0.01)
    assert found["energy"] == pytest.approx(float((values[1:] - values[:-1]).abs().mean()), abs=0.5)


def test_what_does_not_move_has_no_energy():
    still = torch.full((1, 3, 16, 4, 4), 7, dtype=torch.uint8)
    assert moves(still) == {"energy": 0.0, **{f"correlation at {lag}": 0.0 for lag in (1, 4, 8)}}
