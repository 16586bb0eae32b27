"""The autoencoder whose motion latent is a grid: another layout, and nothing that trains on it knows."""

import pytest
import torch
import torch.nn.functional as F
from lightning import Trainer
from torch.utils.data import DataLoader

from cmd_lightning.components import MotionDiffusion
from cmd_lightning.errors import InputError
from cmd_lightning.zoo.autoencoders.cmd import CMDAutoencoder
from cmd_lightning.zoo.autoencoders.grid import GridAutoencoder
from cmd_lightning.zoo.motion.factorised import FactorisedDiT

SMALL = {"patch_size": 2, "width": 16, "motion_channels": 3, "depth": 1, "heads": 2, "head_dim": 8, "output": "linear"}
SHAPE = (3, 5, 8, 12)


def diagonals():
    """Two clips `(2, 3, 4, 8, 8)` of two squares that jump from one diagonal to the other, in step and out of step.

    At all times there is a square in the same rows and in the same columns, and the mean frames are equal.
    """
    falling, rising = torch.zeros(2, 3, 8, 8).unbind()
    falling[:, :4, :4], falling[:, 4:, 4:] = 1, 1
    rising[:, :4, 4:], rising[:, 4:, :4] = 1, 1
    return torch.stack([torch.stack([falling, rising] * 2, 1), torch.stack([rising, falling] * 2, 1)])


def test_slots_are_the_means_of_cells(wake):
    network = wake(GridAutoencoder(**SMALL, grid=(2, 3)))
    video = torch.randn(2, *SHAPE)
    seen = {}
    network.encoder.register_forward_hook(lambda *call: seen.update(u=call[2]))
    content, motion = network.encode(video)
    spec = network.latent_spec(SHAPE)
    assert (content.shape[1:], motion.shape[1:]) == (spec.content, spec.motion) == ((3, 8, 12), (3, 5, 6))
    for slot, (kind, y, x) in enumerate(spec.slots):  # 4 x 6 patches, 2 x 2 in a cell
        assert kind == 2
        top, left = round(y * 4) - 1, round(x * 6) - 1
        mean = seen["u"][..., top : top + 2, left : left + 2].mean((3, 4))
        said = torch.einsum("dc,bct->bdt", network.grid_head.weight[..., 0, 0], mean) + network.grid_head.bias[:, None]
        torch.testing.assert_close(motion[..., slot], said.tanh())


def test_patches_get_what_their_cell_says(wake):
    network = wake(GridAutoencoder(**SMALL, grid=(2, 3)))
    motion = torch.randn(1, 3, 5, 6)
    planes = torch.randn(1, 16, 4, 6)
    features = network.spread(planes, motion)
    for row in range(4):
        for column in range(6):
            slot = motion[0, :, :, row // 2 * 3 + column // 2]
            said = network.grid_stem.weight[..., 0, 0] @ slot + network.grid_stem.bias[:, None]
            torch.testing.assert_close(features[0, :, :, row, column], planes[0, :, None, row, column] + said)


def test_a_grid_tells_what_rows_and_columns_do_not():
    """With the encoder as it starts, which sees each patch by itself."""
    _, by_axis = CMDAutoencoder(**SMALL).encode(diagonals())
    _, by_cell = GridAutoencoder(**SMALL, grid=(2, 2)).encode(diagonals())
    torch.testing.assert_close(by_axis[0], by_axis[1])
    assert (by_cell[0] - by_cell[1]).abs().amax(0).min() > 0.01  # at every time, in every cell


def test_motion_passes_through_the_grid():
    torch.manual_seed(0)
    network = GridAutoencoder(**SMALL, grid=(2, 2), weights="mean")
    video = diagonals()
    content, _ = network.encode(video)
    torch.testing.assert_close(content[0], content[1])
    start = F.mse_loss(network(video), video).item()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        F.mse_loss(network(video), video).backward()
        optimizer.step()
    content, motion = network.encode(video)
    assert F.mse_loss(network.decode(content, motion), video) < 0.05 * start
    assert F.mse_loss(network.decode(content, motion.flip(0)), video.flip(0)) < 0.05 * start


def test_a_motion_model_trains_on_it_and_samples(wake, tmp_path):
    autoencoder = wake(GridAutoencoder(**SMALL, grid=(2, 3)))
    component = MotionDiffusion(
        lambda spec, dim: FactorisedDiT(spec, dim, width=16, depth=2, heads=2), autoencoder, video_shape=SHAPE
    )
    before = component.network.head.weight.clone()
    batch = {
        "video": torch.randint(0, 256, (2, *SHAPE), dtype=torch.uint8),
        "key": ["a", "b"],
        "epoch": 1,
        "fps": torch.full((2,), 8.0),
    }
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    trainer = Trainer(max_steps=1, accelerator="cpu", default_root_dir=tmp_path, **quiet)
    trainer.fit(component, DataLoader([batch], batch_size=None))
    assert (component.network.head.weight != before).any()
    assert component.preview(batch)["sampled motion"].shape == (2, *SHAPE)


def test_a_folder_gives_back_the_network(wake, tmp_path):
    network = wake(GridAutoencoder(**SMALL, grid=(2, 3)))
    network.save_pretrained(tmp_path)
    video = torch.randn(1, *SHAPE)
    torch.testing.assert_close(GridAutoencoder.from_pretrained(tmp_path)(video), network(video), rtol=0, atol=0)


def test_a_grid_finer_than_the_patches_is_reported():
    with pytest.raises(InputError, match="grid 5x3: finer than the 4x6 patches"):
        GridAutoencoder(**SMALL, grid=(5, 3)).latent_spec(SHAPE)
