import numpy as np
import pytest
import torch

from cmd_lightning.errors import InputError
from cmd_lightning.shapes.neighbours import find_copies, nearest_neighbours, thumbnails
from cmd_lightning.shapes.painting import make_clip
from cmd_lightning.video_encoding import mp4_bytes
from cmd_lightning.video_io import read_video


def test_nearest_neighbours_are_those_of_a_full_search():
    query, bank = torch.randn(150, 6), torch.randn(40, 6)
    q, b = query.double().numpy(), bank.double().numpy()
    table = np.sqrt(((q[:, None] - b[None]) ** 2).sum(2))
    distances, indices = nearest_neighbours(query, bank, 3)
    np.testing.assert_array_equal(indices, table.argsort(1)[:, :3])
    np.testing.assert_allclose(distances, np.sort(table, 1)[:, :3], rtol=1e-4, atol=1e-6)


def test_a_small_difference_of_large_features_is_not_lost():
    bank = 1e4 + torch.randn(30, 8)
    step = torch.tensor([0.015625] + 7 * [0.0])
    distances, indices = nearest_neighbours(bank[4:5] + step, bank)
    assert indices.item() == 4
    assert distances.item() == pytest.approx(0.015625, abs=1e-6)


def test_thumbnails_are_in_grey_levels():
    first, second = torch.full((2, 1, 3, 8, 32, 32), 100, dtype=torch.uint8)
    second += 7
    assert (thumbnails(first) - thumbnails(second)).norm().item() == pytest.approx(7, abs=1e-4)
    torch.testing.assert_close(thumbnails(first), thumbnails(first / 255))


@pytest.fixture(scope="module")
def bank():
    levels = ["plain", "mixed"]
    return torch.stack([make_clip(1, index, size=64, level=levels[index % 2])[0] for index in range(300)])


def h264(clip):
    return read_video(mp4_bytes(clip, 8.0, crf=28))


COPIES = [lambda clip: clip, h264, lambda clip: clip.roll(1, 3), lambda clip: clip.roll(1, 2)]


@pytest.mark.parametrize("planted", COPIES, ids=["exact", "h264", "right", "down"])
def test_planted_copies_are_found(bank, planted):
    chosen = list(range(3, 300, 11))
    found = find_copies(thumbnails(torch.stack([planted(bank[index]) for index in chosen])), thumbnails(bank))
    assert found.index.tolist() == chosen
    assert found.copied.all()


def test_independent_clips_are_no_copies(bank):
    levels = ["plain", "mixed"]
    others = torch.stack([make_clip(2, index, size=64, level=levels[index % 2])[0] for index in range(200)])
    found = find_copies(thumbnails(others), thumbnails(bank))
    assert found.copied.float().mean() <= 0.01
    assert found.ratio.median() > 0.9


def test_a_reversed_clip_is_no_copy(bank):
    found = find_copies(thumbnails(bank[1:100:2].flip(2)), thumbnails(bank))
    assert found.copied.float().mean() < 0.2  # of some, growing on the spot, little changes


def test_wrong_input_is_rejected():
    with pytest.raises(InputError, match="shapes"):
        nearest_neighbours(torch.zeros(2, 3), torch.zeros(2, 4))
    with pytest.raises(InputError, match="k 3"):
        nearest_neighbours(torch.zeros(2, 3), torch.zeros(2, 3), 3)
    with pytest.raises(InputError, match="at least two"):
        find_copies(torch.zeros(2, 3), torch.zeros(1, 3))
