"""Which motion slots are about a part of the frame."""

import pytest
import torch

from cmd_lightning.networks import LatentSpec
from cmd_lightning.zoo.autoencoders.cmd import CMDAutoencoder
from cmd_lightning.zoo.autoencoders.grid import GridAutoencoder

SMALL = {"patch_size": 2, "width": 8, "motion_channels": 2, "depth": 1}


def part_of(pixels, height=12, width=20):
    mask = torch.zeros(height, width, dtype=torch.bool)
    for y, x in pixels:
        mask[y, x] = True
    return mask


@pytest.mark.parametrize("pixels", [[(0, 0)], [(11, 19)], [(4, 7)], [(3, 5), (8, 6)]])
def test_rows_and_columns_of_patches(pixels):
    spec = CMDAutoencoder(**SMALL).latent_spec((3, 4, 12, 20))
    rows, columns = spec.reaching_into(part_of(pixels)).split([6, 10])
    assert rows.nonzero().flatten().tolist() == sorted({y // 2 for y, _ in pixels})
    assert columns.nonzero().flatten().tolist() == sorted({x // 2 for _, x in pixels})


@pytest.mark.parametrize("pixels", [[(0, 0)], [(11, 19)], [(4, 7)], [(3, 5), (8, 6)]])
def test_cells_of_a_grid(pixels):
    spec = GridAutoencoder(**SMALL, grid=(3, 5)).latent_spec((3, 4, 12, 20))
    cells = spec.reaching_into(part_of(pixels)).view(3, 5)
    assert cells.nonzero().tolist() == [list(cell) for cell in sorted({(y // 4, x // 4) for y, x in pixels})]


def test_a_mask_of_another_size():
    """A pixel of a coarse mask covers several rows, a row several pixels of a fine one."""
    spec = CMDAutoencoder(**SMALL).latent_spec((3, 4, 12, 20))
    coarse = torch.tensor([[True, False], [False, False], [False, False]])
    assert spec.reaching_into(coarse).nonzero().flatten().tolist() == [0, 1, *range(6, 11)]
    fine = part_of([(17, 0)], 36, 60)
    assert spec.reaching_into(fine).nonzero().flatten().tolist() == [2, 6]


def test_slots_about_the_whole_frame():
    spec = LatentSpec((3, 4, 4), (2, 4, 2), ((7.0, 0.1), (9.0,)))
    assert spec.reaching_into(part_of([(1, 1)])).tolist() == [True, True]


@pytest.mark.parametrize(
    ("options", "reach"),
    [({}, 9), ({"weights": "first"}, 1), ({"weights": "middle"}, 5), ({"weights": "first", "residual": 0.1}, 9)],
)
def test_frames_that_decide_the_content_frame(options, reach):
    """Changes of later frames change nothing, those of the last one that counts do."""
    network = CMDAutoencoder(**SMALL, **options)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    assert network.content_reach(9) == reach
    video = torch.randn(1, 3, 9, 4, 4)
    later, last = video.clone(), video.clone()
    later[:, :, reach:] += 1
    last[:, :, reach - 1] += 1
    content = network.encode(video)[0]
    assert torch.equal(network.encode(later)[0], content)
    assert not torch.equal(network.encode(last)[0], content)
