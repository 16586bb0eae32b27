"""Preview videos of a model in training."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.distributed.fsdp import FSDPModule

from cmd_lightning.atomic_files import replaced
from cmd_lightning.compat import add_gif
from cmd_lightning.errors import InputError
from cmd_lightning.latent_space import to_uint8
from cmd_lightning.video_encoding import gif_bytes

CELL_PIXELS = 128  # what a clip is enlarged to, about, if no scale is asked for
GAP = 4
LABEL_HEIGHT = 16
BACKGROUND, INK = 24, 224


class VideoLogger(Callback):
    """Shows after validation or test what the model makes of a few of its clips.

    The module offers `preview(batch) -> dict[str, Tensor]`: rows of the image by name, each
    `(B, C, T, H, W)` or, for still images, `(B, C, H, W)`, in [-1, 1]. It is called without gradients, with
    the EMA weights if there are any, and with the same random seed every time, so that two images of a run
    differ by the training only. Only the first process calls it, so it must not wait for others; where weights are
    sharded, all processes do, and the first one's are shown.

    The image is an animated GIF, `<log dir>/videos/<module>-step<N>.gif`; TensorBoard and Weights & Biases
    show it too when they are the logger.

    Args:
        num_videos: Clips of the first batch to show, as columns.
        fps: Frames per second of the GIF.
        scale: Factor by which a pixel is enlarged; by default so that a clip is about 128 pixels wide.
    """

    def __init__(self, num_videos: int = 4, fps: float = 8, scale: int | None = None) -> None:
        for name, value in (("num_videos", num_videos), ("scale", scale)):
            if value is not None and value < 1:
                raise InputError(f"VideoLogger {name}={value} is less than 1; give a positive whole number")
        self.num_videos, self.fps, self.scale = num_videos, fps, scale
        self._batch: Any = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuses a module without preview before hours of training, not after."""
        if stage in ("fit", "validate", "test") and not callable(getattr(pl_module, "preview", None)):
            raise InputError(
                f"VideoLogger needs a method preview(batch), which {type(pl_module).__name__} does not have; "
                "add it or remove the callback"
            )

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keeps the first clips of the first batch of the first loader, which is on the device already."""
        asked = trainer.is_global_zero or isinstance(pl_module, FSDPModule)
        if batch_idx == dataloader_idx == 0 and asked and not trainer.sanity_checking:
            self._batch = first(batch, self.num_videos)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the image; at the end of the epoch, because later the EMA weights are gone."""
        log_dir = trainer.log_dir  # on every process: it is broadcast
        if self._batch is None:
            return
        batch, self._batch = self._batch, None
        devices = [pl_module.device] if pl_module.device.type == "cuda" else []
        precision = trainer.precision_plugin.val_step_context()  # the one that validation_step runs in
        with torch.no_grad(), precision, torch.random.fork_rng(devices):
            torch.manual_seed(0)
            rows = pl_module.preview(batch)  # type: ignore[operator]  # torch types attributes as Tensor | Module
        if not trainer.is_global_zero:
            return
        image = grid({name: row[: self.num_videos] for name, row in rows.items()}, self.scale)
        gif = gif_bytes(image, self.fps)

        own = type(pl_module).__name__.removeprefix("FSDP")  # torch puts it before the class of what is sharded
        name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", own).lower()
        path = Path(log_dir or ".") / "videos" / f"{name}-step{trainer.global_step}.gif"
        path.parent.mkdir(parents=True, exist_ok=True)
        with replaced(path) as temporary:
            temporary.write_bytes(gif)
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.log_video(f"videos/{name}", [str(path)], step=trainer.global_step, format=["gif"])
            if isinstance(logger, TensorBoardLogger):
                height, width = image.shape[-2:]
                add_gif(logger.experiment, f"videos/{name}", path, height, width, trainer.global_step)

    # A test shows the same as a validation.
    on_test_batch_end = on_validation_batch_end
    on_test_epoch_end = on_validation_epoch_end

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Lets the batch go."""
        self._batch = None


def first(batch: Any, count: int) -> Any:
    """The first `count` samples of a batch, in the same structure of tensors, mappings and sequences.

    A sequence without tensors, mappings and sequences in it is one of samples.
    """
    if isinstance(batch, dict):
        return {key: first(value, count) for key, value in batch.items()}
    if isinstance(batch, list | tuple) and any(isinstance(part, Tensor | dict | list | tuple) for part in batch):
        return [first(part, count) for part in batch]
    is_sequence = batch.ndim > 0 if isinstance(batch, Tensor) else isinstance(batch, list | tuple)
    return batch[:count] if is_sequence else batch


def grid(rows: dict[str, Tensor], scale: int | None = None) -> Tensor:
    """Lays videos `(B, C, T, H, W)` and images `(B, C, H, W)` out in rows below their labels: uint8 `(3, T, H, W)`.

    Rows of smaller frames are enlarged to about the size of the largest, always by a whole factor, so that
    pixels stay equal squares. A row with fewer frames holds its last one.
    """
    videos = {label: _to_frames(label, row) for label, row in rows.items()}
    if not videos:
        raise ValueError("preview returned no videos to show")
    size = max(max(video.shape[-3:-1]) for video in videos.values())
    scale = scale or max(1, round(CELL_PIXELS / size))
    for label, video in videos.items():
        factor = scale * (size // max(video.shape[-3:-1]))
        videos[label] = video.repeat(factor, axis=-3).repeat(factor, axis=-2)

    frames = max(video.shape[1] for video in videos.values())
    font = ImageFont.load_default(12)
    widths = [len(video) * (video.shape[-2] + GAP) for video in videos.values()]
    width = GAP + max(widths + [int(font.getlength(label)) + GAP for label in videos])
    height = GAP + sum(LABEL_HEIGHT + video.shape[-3] + GAP for video in videos.values())
    canvas = np.full((frames, height, width, 3), BACKGROUND, np.uint8)
    top = GAP
    for label, video in videos.items():
        canvas[:, top : top + LABEL_HEIGHT] = _label(label, font, width)
        top += LABEL_HEIGHT
        times = np.minimum(np.arange(frames), video.shape[1] - 1)
        for column, clip in enumerate(video):
            left = GAP + column * (clip.shape[-2] + GAP)
            canvas[:, top : top + clip.shape[-3], left : left + clip.shape[-2]] = clip[times]
        top += video.shape[-3] + GAP
    return torch.from_numpy(canvas).permute(3, 0, 1, 2)


def _to_frames(label: str, row: Tensor) -> np.ndarray:
    """(B, C, [T,] H, W) in [-1, 1] to (B, T, H, W, 3) in uint8."""
    if row.ndim == 4:
        row = row.unsqueeze(2)
    if row.ndim != 5 or row.shape[1] not in (1, 3):
        raise ValueError(f"preview row {label!r} has shape {tuple(row.shape)}, expected (B, 1 or 3, [T,] H, W)")
    row = to_uint8(row.detach().float().cpu().nan_to_num(-1.0))
    return row.expand(-1, 3, -1, -1, -1).permute(0, 2, 3, 4, 1).numpy()


def _label(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> np.ndarray:
    strip = Image.new("RGB", (width, LABEL_HEIGHT), (BACKGROUND,) * 3)
    ImageDraw.Draw(strip).text((GAP, 0), text, fill=(INK,) * 3, font=font)
    return np.asarray(strip)
