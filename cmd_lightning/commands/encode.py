"""`shards encode`: turns shards of videos into latent shards, so that training decodes and encodes nothing."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from cmd_lightning.commands.files import pixels, report, tell
from cmd_lightning.commands.processes import check_nodes, quiet_trainer
from cmd_lightning.errors import InputError, check_at_least, check_positive

if TYPE_CHECKING:
    from cmd_lightning.latent_space import FrameLatents, LatentSpace
    from cmd_lightning.networks.contracts import AutoencoderNetwork

Precision = Literal["32-true", "bf16-true", "16-true", "bf16-mixed", "16-mixed"]


def encode(
    shards: list[str],
    *,
    out: str,
    autoencoder: str | None = None,
    vae: str | None = None,
    variant: str | None = None,
    revision: str | None = None,
    text: list[str] | None = None,
    frames: int | None = None,
    size: str | None = None,
    fps: float | None = None,
    stride: int | None = None,
    crop: Literal["center", "random"] = "center",
    deinterlace: bool = False,
    tone_map: bool = False,
    background: str = "white",
    evaluation: bool = False,
    clips_per_video: int = 1,
    dtype: Literal["float16", "bfloat16", "float32"] = "float16",
    batch_size: int = 8,
    num_workers: int = 2,
    devices: int = 1,
    nodes: int = 1,
    precision: Precision = "32-true",
    seed: int = 0,
    allow_commands: bool = False,
    json: str | None = None,
) -> None:
    """Encode shards of videos once, for LatentDataModule: the diffusion stages then read no video.

    Stores content frames and motion latents of --autoencoder, or the moments of --vae, in one latent shard per
    shard, with the same name. Clip k of a video is the one that training with the same seed sees in epoch k. Run
    the same command again to resume: complete shards are kept.

    Args:
        shards: .tar files: paths, globs, folders, brace ranges or URLs (https, s3, gs, az, hf).
        out: Folder for the latent shards, shared by all nodes.
        autoencoder: Checkpoint of the autoencoder stage; it sets the number of frames and the size.
        vae: Folder or hub id of Stable Diffusion, or of an image autoencoder of diffusers.
        variant: Variant of the VAE's weights, such as fp16.
        revision: Branch, tag or commit of the VAE's hub id.
        text: Text encoders whose output for the captions is stored too: MODEL:WEIGHTS of open_clip, or a Stable
            Diffusion folder or hub id.
        frames: Frames of a clip (default: the checkpoint's, or 16).
        size: Size of a clip in pixels, SIDE or HEIGHTxWIDTH (default: the checkpoint's).
        fps: Frames per second at which clips are sampled, as data.fps in training.
        stride: Use every STRIDE-th frame instead, as data.stride in training (default: 1).
        crop: Where clips are cropped: in the centre, or at a random place for each clip.
        deinterlace: Rebuild the missing lines of frames that are flagged as interlaced.
        tone_map: Map HDR frames (PQ and HLG) to ordinary video.
        background: Colour behind transparent pixels, a name or #rrggbb.
        evaluation: Encode clips as validation and testing use them: from the first frame, cropped in the centre, with
            the mean of the VAE's posterior instead of a sample.
        clips_per_video: Clips per video; training uses the next one in each epoch.
        dtype: Data type of the stored latents.
        batch_size: Clips per batch on each device.
        num_workers: Decoding processes per device.
        devices: GPUs per node; without GPUs, processes per node.
        nodes: Nodes, started by torchrun or SLURM.
        precision: Precision in which latents are computed.
        seed: Seed for start frames and crops, as data.seed, and for sampling, as seed_everything in training.
        allow_commands: Also accept pipe:COMMAND, which runs a program on this machine.
        json: Write the report to this file; - is standard output.
    """
    check_positive(clips_per_video=clips_per_video, batch_size=batch_size, devices=devices, nodes=nodes)
    check_at_least(0, num_workers=num_workers)
    check_nodes(nodes)
    if (autoencoder is None) == (vae is None):
        raise InputError("--autoencoder, --vae: give one of the two, a checkpoint of the first stage or an image VAE")
    if vae is None and (variant or revision):
        raise InputError("--variant, --revision: these are for --vae; the checkpoint of --autoencoder has its own")
    if evaluation and (clips_per_video > 1 or crop != "center"):
        raise InputError("--evaluation: this takes one clip per video, cropped in the centre; leave out the others")
    if not 0 <= seed < 2**32:
        raise InputError(f"--seed {seed}: give a number from 0 to {2**32 - 1}")
    for option, path in (*(("SHARDS", shard) for shard in shards), ("--autoencoder", autoencoder)):
        if path and not re.search(r"[*?{[]|:", path) and not Path(path).exists():
            raise InputError(f"{option} {path}: there is no such file or folder; check the path")
    from lightning import seed_everything

    from cmd_lightning.callbacks.latent_writer import LatentWriter
    from cmd_lightning.components.encoding import Encoding
    from cmd_lightning.data.cache import ShardCache
    from cmd_lightning.data.classes import read_classes
    from cmd_lightning.data.encode import EncodingData, WholeShards
    from cmd_lightning.data.index import expand
    from cmd_lightning.data.latent_clips import DTYPES
    from cmd_lightning.data.latent_store import LatentStore, claim_folder, index_latents
    from cmd_lightning.data.webvid import WebVidDataModule
    from cmd_lightning.pretrained_text import open_text_encoder
    from cmd_lightning.provenance import fingerprint, provenance
    from cmd_lightning.viewing import Viewing

    viewing = Viewing(deinterlace, tone_map, background)
    remote = ShardCache(allow_commands=allow_commands)
    urls = expand(shards, remote=remote)
    names, classes = names_of(urls), read_classes(urls, remote)
    seed_everything(seed, verbose=False)
    space: LatentSpace
    network: AutoencoderNetwork | None = None
    if autoencoder is not None:
        space, network, frames, sides = open_stage(autoencoder, frames, pixels(size))
    else:
        space, sides = open_vae(str(vae), variant, revision, pixels(size))
    # Computed now, as a change of precision changes the weights.
    made_by = {
        "latent_space": space.fingerprint,
        "autoencoder": None if network is None else fingerprint(network.state_dict()),
    }
    encoders = {encoder.fingerprint: encoder for encoder in map(open_text_encoder, text or [])}
    # Checked and read as in training.
    videos = WebVidDataModule(
        num_frames=16 if frames is None else frames, size=sides, fps=fps, stride=stride, crop=crop, viewing=viewing
    )
    settings = made_by | {
        "text": sorted(encoders),
        **{"frames": videos.num_frames, "size": list(videos.size), "fps": videos.fps, "stride": videos.stride},
        **{"crop": crop, "evaluation": evaluation, "seed": seed, "clips_per_video": clips_per_video},
        "viewing": viewing.describe().get("viewing"),
        **{"dtype": dtype, "precision": precision, "sources": names},
    }
    given = {"autoencoder": autoencoder, "vae": vae, "variant": variant, "revision": revision, "text": text}
    folder = Path(out)
    writer = LatentWriter(LatentStore(folder, DTYPES[dtype], clips_per_video, made_by, tell))
    clips = videos.clip_loader(training=not evaluation)
    data = EncodingData(urls, folder, WholeShards(clips, clips_per_video, batch_size, seed, remote), num_workers)
    module = Encoding(space, network, list(encoders.values()), draw=not evaluation)
    began = time.monotonic()
    with quiet_trainer(devices, nodes, precision=precision, callbacks=[writer], enable_progress_bar=False) as trainer:
        claim_folder(folder, settings, {"given": given} | provenance())
        trainer.predict(module, data, return_predictions=False)
    if not trainer.is_global_zero:
        return
    done = writer.summary
    total = index_latents(folder, names, classes)
    if done["failed"]:
        raise InputError(
            f"SHARDS: {len(done['failed'])} of {len(names)} could not be read, the others are complete: "
            f"{'; '.join(list(done['failed'].values())[:3])}; run the same command again for these"
        )
    if not total:
        raise InputError(f"SHARDS: no sample is usable ({done['bad']}); find them with `shards check`")
    rate = done["samples"] * clips_per_video / (time.monotonic() - began)
    now = {name: done[name] for name in ("shards", "samples", "bad")} | {"clips_per_second": round(rate, 2)}
    report({"samples": total, "out": out, "now": now} | made_by, json)


def open_stage(
    path: str, frames: int | None, size: tuple[int, int] | None
) -> tuple[LatentSpace, AutoencoderNetwork, int, list[int]]:
    """The latent space and network of a checkpoint of the first stage, and frames and size of its clips."""
    from cmd_lightning.components.checkpoints import load_stage

    stage = load_stage(path, "autoencoder", "--autoencoder")
    if not stage.video_shape:
        raise InputError(f"--autoencoder {path}: it was not trained yet; train it first")
    _, own_frames, *sides = stage.video_shape
    own_size = [side * stage.latent_space.factor for side in sides]
    if frames not in (None, own_frames) or (size is not None and list(size) != own_size):
        raise InputError(
            f"--frames, --size: {path} was trained on {own_frames} frames of {own_size[0]}x{own_size[1]} pixels, and "
            "the later stages are built for these; leave both out"
        )
    return stage.latent_space, stage.parts["network"], own_frames, own_size


def open_vae(
    vae: str, variant: str | None, revision: str | None, size: tuple[int, int] | None
) -> tuple[FrameLatents, list[int]]:
    """The latent space of an image autoencoder, and the size of clips."""
    from cmd_lightning.latent_space import FrameLatents
    from cmd_lightning.stable_diffusion import StableDiffusion

    space = FrameLatents(StableDiffusion(vae, variant, revision, option="--vae").vae())
    if size is None:
        raise InputError("--size: missing; give the height and width of clips, HEIGHTxWIDTH")
    if size[0] % space.factor or size[1] % space.factor:
        raise InputError(
            f"--size {size[0]}x{size[1]}: height and width must be multiples of {space.factor}, the pixels on the side "
            "of a latent point; choose another"
        )
    return space, list(size)


def names_of(urls: Sequence[str]) -> list[str]:
    """The file names of the shards and of their latent shards."""
    from cmd_lightning.data.index import place_of

    names: dict[str, str] = {}
    for url in urls:
        name = place_of(url).name
        if not re.fullmatch(r"[^./\s][^/\s]*\.tar", name):
            raise InputError(f"SHARDS {url}: its latent shard gets the same name, so it must end in NAME.tar")
        if name in names:
            raise InputError(
                f"SHARDS {names[name]}, {url}: both are called {name}; encode each folder to a separate --out"
            )
        names[name] = url
    return list(names)
