"""Suggestions of the nearest name in errors."""

import pytest

from cmd_lightning.errors import nearest

NAMES = ["width", "depth", "Depths", "MotionDiT"]


@pytest.mark.parametrize(
    ("word", "hint"),
    [
        ("widht", "did you mean width?"),
        ("motiondit", "did you mean MotionDiT?"),  # no match but for the case
        ("depth", "did you mean Depths?"),  # itself is no hint
        ("xyzzy", "there are width, depth, Depths, MotionDiT"),
    ],
)
def test_the_nearest_choice(word, hint):
    assert nearest(word, NAMES) == hint


def test_what_is_said_around_it():
    assert nearest("widht", NAMES, "see --help", path="model.") == "did you mean model.width?"
    assert nearest("xyzzy", NAMES, "see --help", path="model.") == "see --help"
