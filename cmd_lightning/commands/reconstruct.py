"""`reconstruct`: how well the autoencoder reconstructs real clips."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cmd_lightning.commands.files import best_device, check_unwritten, make_folder, open_model, unused, write_json
from cmd_lightning.commands.loading import loading
from cmd_lightning.errors import InputError, check_positive
from cmd_lightning.zoo import model_folder

if TYPE_CHECKING:
    from cmd_lightning.pipeline import CMDPipeline


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
    """Write OUT/<clip>-reconstruction.mp4, and a .gif next to original and content frame; print the PSNR of each.

    At the end it compares statistics of the content frames with those of real frames (`metrics.ContentNaturalness`).

    Args:
        model: Checkpoint of the autoencoder stage; or a model folder, as written by export, or a name of the zoo, e.g.
            shapes32.
        clips: Videos; the first frames of each are used, resized and cropped to the model's size.
        out: Folder for the results.
        stride: Use every STRIDE-th frame of the videos.
        deinterlace: Rebuild the missing lines of frames that are flagged as interlaced.
        tone_map: Map HDR frames (PQ and HLG) to ordinary video.
        background: Colour behind transparent pixels, a name or #rrggbb.
        json: Write the scores to this file; - is standard output, with nothing else on it.
    """
    check_positive(stride=stride)
    if not Path(model).is_file():
        model_folder(model)
    for clip in clips:
        if not Path(clip).exists():
            raise InputError(f"CLIPS {clip}: there is no such file; check the path")
    folder, taken = make_folder(Path(out), "--out"), set[Path]()
    paths = [unused(folder / f"{Path(clip).stem}-reconstruction.mp4", taken) for clip in clips]
    check_unwritten(folder, [file for path in paths for file in (path, path.with_suffix(".gif"))])
    with loading(model):
        import torch

        from cmd_lightning.data.clips import resize_and_crop
        from cmd_lightning.latent_space import from_uint8, to_uint8
        from cmd_lightning.metrics.content_naturalness import REAL, ContentNaturalness
        from cmd_lightning.metrics.reconstruction import scores
        from cmd_lightning.video_encoding import write_video
        from cmd_lightning.video_io import read_video
        from cmd_lightning.viewing import Viewing

        viewing = Viewing(deinterlace, tone_map, background)
        pipeline = open_autoencoder(model) if Path(model).is_file() else open_model(model)
    frames, space = pipeline.config.video_shape[1], pipeline.latent_space
    naturalness, output = ContentNaturalness(), sys.stderr if json == "-" else sys.stdout
    rows: list[dict[str, Any]] = []
    for clip, path in zip(clips, paths, strict=True):
        source = read_video(clip, range(0, frames * stride, stride), viewing)
        video = from_uint8(resize_and_crop(source, pipeline.size))[None].to(pipeline.device)
        with torch.no_grad():
            content, motion = pipeline.encode(video)
            result = pipeline.decode(content, motion)
            image = space.decode(content[:, :, None])
        row = {name: value.item() for name, value in scores(result, video).items()}
        rows.append({"clip": clip, **row})
        write_video(path, to_uint8(result)[0].cpu(), pipeline.config.fps)
        side_by_side = torch.cat([video, image.expand_as(video), result], dim=-1)
        write_video(path.with_suffix(".gif"), to_uint8(side_by_side)[0].cpu(), pipeline.config.fps)
        print(
            f"{Path(clip).name}: {row['psnr']:.2f} dB, SSIM {row['ssim']:.3f} "
            f"(mean frame {row['psnr_of_mean_frame']:.2f} dB, best frame {row['psnr_of_best_frame']:.2f} dB)",
            file=output,
        )
        naturalness.update(to_uint8(image)[:, :, 0].cpu(), real=False)
        naturalness.update(to_uint8(video)[0].transpose(0, 1).cpu(), real=True)
    measures = {name: value.item() for name, value in naturalness.compute().items()}
    parts = [f"{n.replace('_', ' ')} {v:.3f} ({measures[n + REAL]:.3f})" for n, v in measures.items() if REAL not in n]
    print(f"content frames, in brackets real frames: {', '.join(parts)}", file=output)
    print(f"videos are in {folder}", file=output)
    write_json(rows, json)


def open_autoencoder(checkpoint: str) -> CMDPipeline:
    """The pipeline of the autoencoder in a checkpoint, which encodes and decodes and has no other parts."""
    from cmd_lightning.components.checkpoints import load_stage
    from cmd_lightning.pipeline import CMDPipeline

    stage = load_stage(checkpoint, "autoencoder", "MODEL")
    if not stage.video_shape:
        raise InputError(f"MODEL {checkpoint}: it was not trained yet; train it first")
    vae = stage.latent_space.vae
    return CMDPipeline(stage.parts["network"], vae=vae, video_shape=stage.video_shape, fps=stage.fps).to(best_device())
