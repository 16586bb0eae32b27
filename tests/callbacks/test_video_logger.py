import io
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger
from PIL import Image, ImageSequence
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from torch.utils.data import DataLoader

from cmd_lightning.callbacks import EMA, VideoLogger
from cmd_lightning.callbacks.video_logger import GAP, LABEL_HEIGHT, first, grid
from cmd_lightning.errors import InputError

RED, GREEN = torch.tensor([1.0, -1, -1]), torch.tensor([-1.0, 1, -1])


class ToyModel(LightningModule):
    """Its preview: the batch, its first frame, and noise."""

    def __init__(self):
        super().__init__()
        self.net = nn.Linear(2, 1)
        self.batches, self.weights, self.modes = [], [], []

    def training_step(self, batch, batch_idx):
        return self.net(torch.randn(4, 2)).square().mean()

    def validation_step(self, batch, batch_idx):
        pass

    def preview(self, batch):
        self.batches.append(batch)
        self.weights.append(self.net.weight.clone())
        self.modes.append((torch.is_grad_enabled(), self.training))
        video = batch["video"]
        return {
            "original": video,
            "content frame": video[:, :, 0],
            "noise": torch.randn(len(video), 3, 4, 8, 8),
        }

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def clips(count=6):
    """Clips that turn from red to green at frame 2."""
    video = torch.where(torch.arange(4)[:, None] < 2, RED, GREEN).T[:, :, None, None].expand(3, 4, 8, 8)
    return [{"video": video, "caption": f"clip {i}"} for i in range(count)]


def fit(tmp_path, logger, *callbacks, model=None, max_epochs=2, **options):
    model = model or ToyModel()
    trainer = Trainer(
        accelerator="cpu", logger=logger, default_root_dir=tmp_path, callbacks=list(callbacks),
        max_epochs=max_epochs, log_every_n_steps=1, enable_progress_bar=False, enable_checkpointing=False,
        enable_model_summary=False, **options,
    )  # fmt: skip
    trainer.fit(model, DataLoader(clips(), batch_size=3), DataLoader(clips(), batch_size=3))
    return model


def frames(source):
    return [np.asarray(frame.convert("RGB")).astype(int) for frame in ImageSequence.Iterator(Image.open(source))]


def check_gif(source):
    """Red then green in the first row; the second row stays red."""
    images = frames(source)
    assert len(images) == 4
    cell, pitch = 16, LABEL_HEIGHT + 16 + GAP  # 8 pixels at scale 2
    for t, image in enumerate(images):
        first_row = image[GAP + LABEL_HEIGHT :][:cell, GAP : GAP + cell]
        second_row = image[GAP + LABEL_HEIGHT + pitch :][:cell, GAP : GAP + cell]
        assert np.abs(first_row - ([255, 0, 0] if t < 2 else [0, 255, 0])).max() <= 12
        assert np.abs(second_row - [255, 0, 0]).max() <= 12
        assert image[: GAP + LABEL_HEIGHT].max() > 150  # ink of a label


def test_gif_is_written_without_a_logger(tmp_path):
    model = fit(tmp_path, False, VideoLogger(num_videos=2, scale=2))
    files = sorted(path.name for path in (tmp_path / "videos").iterdir())
    assert files == ["toy-model-step2.gif", "toy-model-step4.gif"]
    check_gif(tmp_path / "videos" / "toy-model-step4.gif")
    with Image.open(tmp_path / "videos" / "toy-model-step4.gif") as gif:
        assert gif.info["duration"] in (120, 130) and gif.info["loop"] == 0  # 8 frames per second, for ever
    assert [batch["caption"] for batch in model.batches] == [["clip 0", "clip 1"]] * 2
    assert all(len(batch["video"]) == 2 for batch in model.batches)
    assert model.modes == [(False, False)] * 2


def test_tensorboard_gets_the_same_gif(tmp_path):
    logger = TensorBoardLogger(tmp_path, name="run")
    fit(tmp_path, logger, VideoLogger(num_videos=2, scale=2))
    logger.finalize("success")

    events = EventAccumulator(logger.log_dir, size_guidance={"images": 0}).Reload().Images("videos/toy-model")
    assert [event.step for event in events] == [2, 4]
    path = Path(logger.log_dir) / "videos" / "toy-model-step4.gif"
    assert events[-1].encoded_image_string == path.read_bytes()
    check_gif(io.BytesIO(events[-1].encoded_image_string))
    with Image.open(path) as gif:
        assert (events[-1].width, events[-1].height) == gif.size


def test_wandb_gets_the_file(tmp_path):
    logger = Mock(spec=WandbLogger, save_dir=str(tmp_path))
    trainer = Mock(loggers=[logger], log_dir=str(tmp_path), global_step=7, current_epoch=0, sanity_checking=False)
    callback, model = VideoLogger(), ToyModel()
    trainer.precision_plugin.val_step_context = torch.no_grad
    batch = {"video": torch.stack([clip["video"] for clip in clips()])}
    callback.on_validation_batch_end(trainer, model, None, batch, 0)
    callback.on_validation_epoch_end(trainer, model)
    path = tmp_path / "videos" / "toy-model-step7.gif"
    logger.log_video.assert_called_once_with("videos/toy-model", [str(path)], step=7, format=["gif"])
    assert path.exists()


@pytest.mark.parametrize("ema_first", [True, False])
def test_shows_the_averaged_weights_in_any_order(tmp_path, ema_first):
    ema, logger = EMA(), VideoLogger()
    model = fit(tmp_path, False, *([ema, logger] if ema_first else [logger, ema]))
    assert torch.equal(model.weights[-1], ema.average["net.weight"])
    assert not torch.equal(model.weights[-1], model.net.weight)


def test_previews_change_nothing_in_training(tmp_path):
    def train(*callbacks):
        torch.manual_seed(0)
        return fit(tmp_path, False, *callbacks, model=ToyModel(), num_sanity_val_steps=0).net.weight

    assert torch.equal(train(), train(VideoLogger()))


def test_a_module_without_preview_is_rejected(tmp_path):
    class Plain(ToyModel):
        preview = None

    with pytest.raises(InputError, match="preview"):
        fit(tmp_path, False, VideoLogger(), model=Plain())
    with pytest.raises(InputError, match="num_videos=0"):
        VideoLogger(num_videos=0)


def test_first_keeps_the_structure():
    batch = {
        "video": torch.zeros(4, 3, 2, 8, 8),
        "caption": list("abcd"),
        "pair": [torch.zeros(4), torch.ones(4)],
    }
    kept = first(batch, 2)
    assert kept["video"].shape == (2, 3, 2, 8, 8)
    assert kept["caption"] == ["a", "b"]
    assert [len(part) for part in kept["pair"]] == [2, 2]


def test_grid_enlarges_by_whole_factors_and_holds_the_last_frame():
    large = torch.rand(2, 3, 5, 64, 48) * 2 - 1
    small = torch.rand(2, 1, 2, 32, 24) * 2 - 1
    image = grid({"a": large, "b": small})
    height = GAP + 2 * (LABEL_HEIGHT + 128 + GAP)
    assert image.shape == (3, 5, height, GAP + 2 * (96 + GAP)) and image.dtype == torch.uint8

    top = GAP + LABEL_HEIGHT
    shown = image[:, 4, top : top + 128, GAP : GAP + 96][:, ::2, ::2]
    assert torch.equal(shown, ((large[0, :, 4] + 1) * 127.5).round().byte())
    top += 128 + GAP + LABEL_HEIGHT
    shown = image[:, 4, top : top + 128, GAP : GAP + 96]
    expected = ((small[0, :, 1] + 1) * 127.5).round().byte().repeat_interleave(4, 1).repeat_interleave(4, 2)
    assert torch.equal(shown, expected.expand(3, -1, -1))


def test_grid_tells_a_wrong_row():
    with pytest.raises(ValueError, match="'latent' has shape"):
        grid({"latent": torch.zeros(1, 4, 8, 8)})
