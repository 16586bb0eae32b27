"""`reconstruct`: what the autoencoder keeps of real clips."""

from __future__ import annotations

import json as json_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def reconstruct(
    model: str, clips: list[str], *, out: str = "outputs/reconstruct", stride: int = 1, json: str | None = None
) -> None:
    """Writes DIR/<clip>.gif (original, content frame, reconstruction) and .mp4, and prints the PSNR of each clip.

    Args:
        model: Model folder, as written by export or demo.
        clips: Videos; the first frames of each are taken, resized and cropped to the model's size.
        out: Folder for the results.
        stride: Distance of the clip's frames in source frames.
        json: Write the scores to this file; - is standard output, with nothing else on it.
    """
    import sys
    from pathlib import Path

    import torch

    from cmd_lightning import video_io
    from cmd_lightning.commands.folders import open_model
    from cmd_lightning.latent_space import from_uint8, to_uint8
    from cmd_lightning.metrics.reconstruction import best_frame, mean_frame, psnr, ssim

    pipeline = open_model(model)
    _, frames, height, width = pipeline.config.video_shape
    folder = Path(out)
    rows = []
    for clip in clips:
        original = read_clip(clip, frames, (height, width), stride)
        video = from_uint8(original)[None].to(pipeline.device)
        with torch.no_grad():
            content, motion = pipeline.autoencoder.encode(video)
            result = pipeline.decode(content, motion)
        row = {
            "clip": clip,
            "psnr": psnr(result, video).item(),
            "ssim": ssim(result, video).item(),
            "psnr_of_mean_frame": psnr(mean_frame(video), video).item(),
            "psnr_of_best_frame": psnr(best_frame(video), video).item(),
        }
        rows.append(row)
        folder.mkdir(parents=True, exist_ok=True)
        still = content[:, :, None].expand_as(video)
        beside = to_uint8(torch.cat([video, still, result], dim=-1))[0].cpu()
        stem = folder / Path(clip).stem
        video_io.write_video(stem.with_suffix(".gif"), beside, pipeline.config.fps)
        video_io.write_video(stem.with_suffix(".mp4"), to_uint8(result)[0].cpu(), pipeline.config.fps)
        print(
            f"{Path(clip).name}: {row['psnr']:.2f} dB, SSIM {row['ssim']:.3f} "
            f"(mean frame {row['psnr_of_mean_frame']:.2f} dB, best frame {row['psnr_of_best_frame']:.2f} dB)",
            file=sys.stderr if json == "-" else sys.stdout,
        )
    if json is not None:
        text = json_module.dumps(rows, indent=2)
        print(text) if json == "-" else Path(json).write_text(text + "\n")


def read_clip(path: str, num_frames: int, size: tuple[int, int], stride: int) -> Tensor:
    """The first frames of a video, resized and cropped to `size`: uint8 `(C, T, H, W)`.

    Raises:
        InputError: It cannot be read, or is too short.
    """
    from cmd_lightning.data.clips import resize_and_crop
    from cmd_lightning.video_io import read_video

    return resize_and_crop(read_video(path, range(0, num_frames * stride, stride)), size)
