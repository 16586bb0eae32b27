"""The motion model with the content frame pooled onto the slots."""

import pytest
import torch

from cmd_lightning.errors import InputError
from cmd_lightning.networks import LatentSpec
from cmd_lightning.zoo.motion.aligned import AlignedDiT

ROWS, COLUMNS = 4, 5
SLOTS = tuple((0.0, i / ROWS) for i in range(ROWS)) + tuple((1.0, i / COLUMNS) for i in range(COLUMNS))
SPEC = LatentSpec((3, 8, 10), (4, 5, ROWS + COLUMNS), SLOTS)
SMALL = {"width": 24, "depth": 2, "heads": 2, "frames": 2}


def test_content_reaches_the_slots_it_covers(wake):
    """Without blocks, and two patches away for the convolution, a change in the content meets its own lines alone."""
    network = wake(AlignedDiT(SPEC, 0, **SMALL | {"depth": 0}))
    motion, timestep = torch.randn(1, 4, 5, ROWS + COLUMNS), torch.tensor([3])
    content = torch.randn(1, 3, 8, 10)
    moved = content.clone()
    moved[:, :, 0, 0] += 3  # in the patch of row 0 and column 0
    before, after = (network.predict(motion, timestep, frame, None) for frame in (content, moved))
    change = (after - before).abs().amax((0, 1, 2))
    rows, columns = change[:ROWS], change[ROWS:]
    assert (rows[:2] > 1e-5).all()
    assert (rows[2:] < 1e-6).all()
    assert (columns[:2] > 1e-5).all()
    assert (columns[2:] < 1e-6).all()


def test_other_layouts_are_rejected():
    grid = tuple((i / 3, j / 3) for i in range(3) for j in range(3))
    with pytest.raises(InputError, match="use MotionDiT"):
        AlignedDiT(LatentSpec((3, 9, 9), (4, 5, 9), grid), 6, **SMALL)
