"""What a motion slot covers of the content frame."""

import pytest
import torch
import torch.nn.functional as F

from cmd_lightning.networks import LatentSpec
from cmd_lightning.networks.slots import slot_coverage, slot_embedding


def lines(count):
    return [(i + 0.5) / count for i in range(count)]


def coverage(content, slots, patch_size):
    return slot_coverage(LatentSpec(content, (1, 1, len(slots)), tuple(slots)), patch_size)


@pytest.mark.parametrize("cells", [(4, 6), (2, 3), (7, 13)])  # as fine as the patches, coarser, finer
def test_slots_of_every_kind_read_the_patches_resized_to_them(cells):
    rows, columns = map(lines, cells)
    patches = torch.randn(5, 4, 6)

    def resized(height, width):
        return F.interpolate(patches[None], (height, width), mode="bilinear", antialias=True)[0]

    for slots, expected in (
        ([(0.0, y) for y in rows], resized(cells[0], 6).mean(2)),
        ([(1.0, x) for x in columns], resized(4, cells[1]).mean(1)),
        ([(2.0, y, x) for y in rows for x in columns], resized(*cells).flatten(1)),
        ([(3.0, 0.5), (9.0,)], patches.mean((1, 2))[:, None].expand(5, 2)),
    ):
        torch.testing.assert_close(patches.flatten(1) @ coverage((3, 8, 12), slots, 2).T, expected)


def test_patches_that_stand_over_are_covered_too():
    weights = coverage((3, 7, 9), [(0.0, y) for y in lines(7)], 4)  # 2 x 3 patches
    torch.testing.assert_close(weights.sum(1), torch.ones(7))
    assert (weights >= 0).all()
    assert (weights.sum(0) > 0).all()


def test_every_slot_has_a_code_of_its_own():
    slots = (
        [(0.0, y) for y in lines(32)] + [(1.0, x) for x in lines(32)] + [(2.0, 0.25, 0.75), (2.0, 0.75, 0.25), (7.0,)]
    )
    codes = slot_embedding(LatentSpec((3, 8, 8), (1, 1, len(slots)), tuple(slots)), 48)
    assert codes.shape == (67, 48)
    assert F.pdist(codes).min() > 0.3
