"""`reconstruct`: what the autoencoder keeps of real clips."""

from __future__ import annotations

from typing import Any

from cmd_lightning.errors import check_positive
from cmd_lightning.viewing import Viewing


def reconstruct(
    model: str,
    clips: list[str],
    *,
    out: str = "outputs/reconstruct",
    stride: int = 1,
    deinterlace: bool = False,
    tone_map: bool = False,
    background: str = "white",
    json: str | None = None,
) -> None:
    """Writes DIR/<clip>-reconstruction.mp4, and .gif beside original and content frame; prints the PSNR of each.

    Args:
        model: Model folder, as written by export, or a name of the zoo, e.g. shapes32.
        clips: Videos; the first frames of each are taken, resized and cropped to the model's size.
        out: Folder for the results.
        stride: Distance of the clip's frames in source frames.
        deinterlace: Rebuild the missing lines of frames that are flagged as interlaced.
        tone_map: Map HDR frames (PQ and HLG) to ordinary video.
        background: Colour behind transparent pixels, a name or #rrggbb.
        json: Write the scores to this file; - is standard output, with nothing else on it.
    """
    import sys
    from pathlib import Path

    import torch

    from cmd_lightning import video_io
    from cmd_lightning.commands.files import make_folder, open_model, unused, write_json
    from cmd_lightning.data.clips import resize_and_crop
    from cmd_lightning.latent_space import from_uint8, to_uint8
    from cmd_lightning.metrics.reconstruction import scores

    check_positive(stride=stride)
    viewing = Viewing(deinterlace, tone_map, background)
    pipeline = open_model(model)
    frames, space = pipeline.config.video_shape[1], pipeline.latent_space
    rows: list[dict[str, Any]] = []
    written: set[Path] = set()
    for clip in clips:
        source = video_io.read_video(clip, range(0, frames * stride, stride), viewing)
        video = from_uint8(resize_and_crop(source, pipeline.size))[None].to(pipeline.device)
        with torch.no_grad():
            content, motion = pipeline.encode(video)
            result = pipeline.decode(content, motion)
            picture = space.decode(content[:, :, None])
        row = {name: value.item() for name, value in scores(result, video).items()}
        rows.append({"clip": clip, **row})
        path = unused(make_folder(Path(out), "--out") / f"{Path(clip).stem}-reconstruction.mp4", written)
        video_io.write_video(path, to_uint8(result)[0].cpu(), pipeline.config.fps)
        beside = torch.cat([video, picture.expand_as(video), result], dim=-1)
        video_io.write_video(f"{path.with_suffix('')}.gif", to_uint8(beside)[0].cpu(), pipeline.config.fps)
        print(
            f"{Path(clip).name}: {row['psnr']:.2f} dB, SSIM {row['ssim']:.3f} "
            f"(mean frame {row['psnr_of_mean_frame']:.2f} dB, best frame {row['psnr_of_best_frame']:.2f} dB)",
            file=sys.stderr if json == "-" else sys.stdout,
        )
    write_json(rows, json)
